# SPDX-License-Identifier: Apache-2.0
"""Find the images of a Parquet list or of webdataset shards, and read one row of either."""

import hashlib
import json
import os
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.data.labels import LabelIndex
from dalnet.documents import parse_json
from dalnet.errors import UsageError
from dalnet.io import require_file

from .cluster_workers import TAG_MEMBERS

LIST_COLUMNS = ("file", "tags")
_MAX_MEMBER = 256 << 20  # bytes of a file in a shard
_MAX_DIGITS = 9  # of the number of a class
# What a byte of a Parquet list may stand for: names that all differ need more than that.
_MOST_VALUES = 20
_EXPECTED = 'each sample needs an image and NAME.json with {"tags": [...]} or NAME.cls'


@dataclass(frozen=True)
class ClusterInput:
    """The images of a job.

    Attributes:
        files: of a Parquet list, or the shards.
        filesystem: where they lie.
        is_list: whether they are a list.
        digest: hash of their names, sizes and times.
    """

    files: list[str]
    filesystem: pa.fs.FileSystem
    is_list: bool
    digest: str


def find_list(place: str, class_names: Sequence[str]) -> ClusterInput:
    """Return a Parquet list with the columns ``file`` and ``tags``, read once to be checked.

    Args:
        place: a file, or a folder with all folders in it; a path or a URI that PyArrow knows.
        class_names: C + 1 names, background first.

    Raises:
        UsageError: there is none, it lacks a column, names an image twice, or has an unknown tag.
    """
    found = _find_files(place, ".parquet", is_list=True)
    try:
        for file in found.files:
            _refuse_false_counts(found.filesystem, file)
        table = pa.dataset.dataset(found.files, filesystem=found.filesystem, format="parquet")
        _check_columns(table.schema, place)
        content = table.to_table(columns=list(LIST_COLUMNS))
        content.validate(full=True)  # names of bytes that are no text, among others
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"it is not readable as Parquet ({error})"
        raise UsageError(what, place, "write it anew") from error
    if not len(content):
        raise UsageError("it lists no image", place, "name another list")
    _check_files(content["file"], place)
    tags = content["tags"]
    values = pc.unique(pc.list_flatten(tags) if _is_list(tags.type) else tags).to_pylist()
    TagReader(class_names).check(values, place)
    return found


def find_shards(place: str) -> ClusterInput:
    """Return webdataset shards, of which the first sample is looked at.

    Args:
        place: a .tar, or a folder with all folders in it; a path or a URI that PyArrow knows.

    Raises:
        UsageError: there is none, or the first sample has no image or no tags.
    """
    found = _find_files(place, ".tar", is_list=False)
    shard = found.files[0]
    members: dict[str, list[str]] = {}
    try:
        with (
            found.filesystem.open_input_stream(shard) as stream,
            # Not decompressed: a megabyte could stand for terabytes that would be passed over.
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                if member.size > _MAX_MEMBER:
                    raise tarfile.ReadError(f"{member.name!r} claims {member.size:,} bytes")
                name, _, kind = posixpath.basename(member.name).partition(".")
                if member.isreg() and kind:
                    members.setdefault(name, []).append(kind.lower())
                if len(members) > 1:
                    break
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"it is not readable as tar ({error})", shard, "write it anew") from error
    kinds = next(iter(members.values()), [])
    if not any(f".{kind}" in IMAGE_SUFFIXES for kind in kinds):
        raise UsageError("its first sample has no image", shard, _EXPECTED)
    if not {*kinds} & {*TAG_MEMBERS}:
        raise UsageError("its first sample has no tags", shard, _EXPECTED)
    return found


def resolve(place: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system of a path or a URI, and the path in it.

    Raises:
        UsageError: PyArrow knows no such file system.
    """
    try:
        return pa.fs.FileSystem.from_uri(place if "://" in place else os.path.abspath(place))
    except (pa.ArrowException, OSError, ValueError) as error:
        hint = "name a path, or a URI as s3://BUCKET/FOLDER"
        raise UsageError(f"there is no such place ({error})", place, hint) from error


class TagReader:
    """Reads the tags of rows as names of a model's classes."""

    def __init__(self, class_names: Sequence[str], untagged: str = "unknown") -> None:
        """Take C + 1 names, background first; ``untagged`` "none": such images show no class."""
        self._names = list(class_names[1:])
        self._index = LabelIndex(self._names)
        self._untagged = untagged

    def read(self, row: Mapping[str, Any]) -> list[str]:
        """Return the classes that the image of a row shows.

        Args:
            row: of a list, or of :func:`.cluster_workers.sample_row`.

        Raises:
            UsageError: it has no tags, or an unknown one.
        """
        tags = _split(row["tags"]) if "tags" in row else self._of_sample(row)
        if tags is None:
            if self._untagged != "none":
                hint = "tag it, or say that such images show none"
                raise UsageError("it has no tags", row["file"], hint)
            tags = []
        return self._known(tags, row["file"])

    def check(self, cells: Sequence[Any], where: str) -> None:
        """Refuse cells of a list with a tag that is no class.

        Raises:
            UsageError: there is one.
        """
        for cell in cells:
            self._known(_split(cell) or (), where)

    def _known(self, tags: Sequence[str], where: str) -> list[str]:
        return [self._names[label] for label in self._index.labels(tags, where).shown]

    def _of_sample(self, row: Mapping[str, Any]) -> list[str] | None:
        """Return the tags in the sample's .json or, if that has none, those in its .cls."""
        tags = None
        if isinstance(row["json"], bytes):
            text = row["json"].decode("utf-8", errors="replace")
            content = parse_json(text, row["file"], _EXPECTED)
            tags = content.get("tags") if isinstance(content, dict) else None
            cells = [tags] if tags is None or isinstance(tags, str) else tags
            if not isinstance(cells, list) or not all(isinstance(c, str | None) for c in cells):
                raise UsageError("its tags are no texts", row["file"], _EXPECTED)
        if tags is not None or not isinstance(row["cls"], bytes):
            return _split(tags)
        text = row["cls"].decode("utf-8", errors="replace").strip()
        if text.isdecimal() and len(text) <= _MAX_DIGITS and int(text) < len(self._names):
            return [self._names[int(text)]]
        return _split(text)


def row_image(row: Mapping[str, Any], images: str) -> bytes:
    """Return the content of the image file of a row.

    Args:
        row: of a list, or of :func:`.cluster_workers.sample_row`.
        images: the folder that the files of a list lie in; empty: they are paths or URIs.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    file = row["file"]
    if "tags" not in row:
        if not isinstance(row["image"], bytes):
            raise UsageError("the sample has no image", file, _EXPECTED)
        return row["image"]
    if images and ("://" in file or file.startswith("/") or ".." in PurePosixPath(file).parts):
        raise UsageError("it lies outside of the folder of images", file, "name files below it")
    place = posixpath.join(images, file)
    try:
        if "://" not in place:
            require_file(place)
            return Path(place).read_bytes()
        with fsspec.open(place, "rb") as stream:
            return stream.read()
    except UsageError:
        raise
    except Exception as error:  # Each of fsspec's file systems raises errors of its own.
        raise UsageError(f"it cannot be read ({error})", file, "restore it") from error


def _split(cell: str | Sequence[str | None] | None) -> list[str] | None:
    """Return the tags of a cell: a list, or text with ``;`` between them; None for an empty one."""
    if isinstance(cell, str):
        cell = cell.replace("|", ";").split(";") if cell.strip() else None
    return None if cell is None else [tag.strip() for tag in cell if tag and tag.strip()]


def _find_files(place: str, suffix: str, is_list: bool) -> ClusterInput:
    """Find the files of a suffix, without hidden ones."""
    filesystem, path = resolve(place)
    info = filesystem.get_file_info(path)
    if info.type == pa.fs.FileType.Directory:
        infos = filesystem.get_file_info(pa.fs.FileSelector(path, recursive=True))
    else:
        infos = [info]
    infos = [
        one
        for one in infos
        if one.type == pa.fs.FileType.File
        and one.path.lower().endswith(suffix)
        and not one.base_name.startswith((".", "_"))
    ]
    if not infos:
        hint = f"name a {suffix} file, or a folder with some"
        raise UsageError(f"there is no {suffix} in it", place, hint)
    infos.sort(key=lambda one: one.path)
    parts = [(one.path, one.size, one.mtime_ns) for one in infos]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return ClusterInput([one.path for one in infos], filesystem, is_list, digest)


def _refuse_false_counts(filesystem: pa.fs.FileSystem, file: str) -> None:
    """Refuse a list that claims more rows or values than its bytes can hold.

    Memory is given to what it claims before any of it is read.
    """
    with filesystem.open_input_file(file) as stream:
        size, about = stream.size(), pa.parquet.ParquetFile(stream).metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    read = [one for one in columns if one.path_in_schema.split(".")[0] in LIST_COLUMNS]
    rows = [group.num_rows for group in groups]
    most = max(about.num_rows, *rows, *(column.num_values for column in read), 0)
    if most > _MOST_VALUES * size or sum(rows) != about.num_rows:
        what = f"it claims {most:,} rows or values in {size:,} bytes"
        raise UsageError(what, file, "write it anew")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _check_columns(schema: pa.Schema, place: str) -> None:
    """Refuse a list without its columns, or whose columns hold something else."""
    if missing := [name for name in LIST_COLUMNS if name not in schema.names]:
        hint = "a list has the columns file (text) and tags (lists of text, or text with ;)"
        raise UsageError(f"it has no column {missing[0]!r}, but {schema.names}", place, hint)
    for name in LIST_COLUMNS:
        kind = schema.field(name).type
        if name == "tags" and _is_list(kind):
            kind = kind.value_type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        # Never a type of an extension, whose values may be pickled objects.
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UsageError(f"its column {name!r} holds {kind}, no text", place, "write text")


def _check_files(files: pa.ChunkedArray, place: str) -> None:
    """Refuse a list with an image that has no name, or whose name is there twice."""
    if files.null_count:
        raise UsageError("a row names no file", place, "take it off the list")
    if pc.count_distinct(files).as_py() < len(files):
        counts = pc.value_counts(files)
        doubled = next(one["values"] for one in counts.to_pylist() if one["counts"] > 1)
        raise UsageError(f"it names {doubled} twice", place, "keep one, with all its tags")

# SPDX-License-Identifier: Apache-2.0
"""Images with captions on disk: JSON lines, and the tar files that img2dataset writes."""

import logging
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from dalnet.data.datasets.catalog import datasets_root
from dalnet.documents import parse_json
from dalnet.errors import UsageError
from dalnet.io import reading_errors, require_file

from .toy import CAPTIONS, ensure_toy_captions

JSON_LINES, SHARD = ".jsonl", ".tar"
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_CAPTION_SUFFIXES = ("txt", "text", "caption")
_MAX_MEMBER = 256 << 20  # bytes of a file in a tar file
_MAX_CAPTION = 2000  # letters; CLIP reads 77 tokens
_NOUN_SUFFIX = "nouns.json"
_LINE = '{"image": "path", "caption": "words"}'

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captioned:
    """An image with its caption, not decoded yet.

    Attributes:
        image: the path of an image file, or its content.
        caption: as it is stored, without space around it, its first 2,000 letters; empty where the
            image has none.
        nouns: of the caption; None where nothing says which they are.
        name: for messages.
    """

    image: str | bytes
    caption: str
    nouns: tuple[str, ...] | None
    name: str


def find_caption_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that patterns with braces, as ``cc3m/{00000..00331}.tar``, stand for.

    Args:
        patterns: paths, relative to the data root; ``.jsonl`` or ``.tar``. The toy captions are
            generated where they are missing.

    Raises:
        UsageError: a file that is missing or of another kind, or none at all.
    """
    where = "MODEL.CODE.CAPTIONS.FILES"
    hint = f"name files that end in {JSON_LINES} or {SHARD}, relative to DETECTRON2_DATASETS"
    if not patterns:
        raise UsageError("no captions are named", where, hint)
    names = [name for pattern in patterns for name in _expand(pattern)]
    if str(CAPTIONS) in names:
        ensure_toy_captions(datasets_root())
    files = [datasets_root() / name for name in names]
    for file in files:
        if file.suffix not in (JSON_LINES, SHARD):
            raise UsageError(f"{file} is no file of captions", where, hint)
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(files)} files of captions are missing, the first is "
            f"{missing[0]}",
            where,
            "leave out what was not downloaded, as with {00000..00099}",
        )
    return files


def _expand(pattern: str) -> Iterator[str]:
    if "{" not in pattern:
        return iter([pattern])
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise UsageError(
            "braces are read by webdataset, which is not installed",
            "MODEL.CODE.CAPTIONS.FILES",
            "pip install webdataset, or name each file",
        ) from error
    try:
        return iter(list(braceexpand(pattern)))
    except ValueError as error:
        hint = "close each brace, as in cc3m-{0000..0575}.tar"
        raise UsageError(f"{pattern!r} ({error})", "MODEL.CODE.CAPTIONS.FILES", hint) from error


@reading_errors()
def read_captions(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON-lines file that are not blank.

    Each is ``{"image": path, "caption": words}``, the path relative to the file, with a list
    ``nouns`` where the caption's nouns are known.

    Raises:
        UsageError: a line that is something else, or none at all.
    """
    lines = []
    require_file(path)
    try:
        with path.open(encoding="utf-8") as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip():
                    lines.append(_parse_line(text, f"{path}, line {number}"))
    except UnicodeDecodeError as error:
        raise UsageError(f"not readable as text ({error})", path, "save it as UTF-8") from error
    if not lines:
        raise UsageError("there are no captions", path, f"write lines of {_LINE}")
    return lines


def _parse_line(text: str, where: str) -> dict[str, Any]:
    line = parse_json(text, where, f"write {_LINE}")
    if not isinstance(line, dict):
        raise UsageError(f"this is {text.strip()[:40]!r}", where, f"write {_LINE}")
    for key in ("image", "caption"):
        if not isinstance(line.get(key), str):
            raise UsageError(f"there is no {key!r} with text", where, f"write {_LINE}")
    path = PurePath(line["image"])
    if path.is_absolute() or ".." in path.parts or "\0" in line["image"]:
        what = f"the image {line['image']!r} lies outside the file's folder"
        raise UsageError(what, where, "give paths below the folder of the file")
    nouns = line.get("nouns", [])
    if not isinstance(nouns, list) or not all(isinstance(noun, str) for noun in nouns):
        raise UsageError("'nouns' is no list of words", where, 'write "nouns": ["dog", "grass"]')
    return line


def captioned_line(folder: Path, line: dict[str, Any]) -> Captioned:
    """Return what a line of :func:`read_captions` says; its image lies relative to ``folder``."""
    nouns = tuple(line["nouns"]) if "nouns" in line else None
    path = str(folder / line["image"])
    return Captioned(path, line["caption"].strip()[:_MAX_CAPTION], nouns, path)


def read_shard(path: Path) -> Iterator[Captioned]:
    """Yield the images of a tar file with their captions; files of one stem belong together.

    The image ends in ``.jpg``, ``.jpeg``, ``.png`` or ``.webp``, the caption in ``.txt``, ``.text``
    or ``.caption``; a list of its nouns may stand in ``.nouns.json``. Stems without an image are
    passed over, as are all files of other kinds.

    A damaged file is read up to the damage, which is named in the log, as is a file without a
    caption: one of a thousand that were downloaded for days must not end the training.

    Raises:
        UsageError: webdataset is not installed, or the nouns of an image are no list.
    """
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise UsageError(
            f"webdataset, which reads {path}, is not installed",
            "MODEL.CODE.CAPTIONS.FILES",
            "pip install webdataset",
        ) from error
    captions = 0
    try:
        for sample in group_by_keys(_read_members(path)):
            found = _captioned_sample(sample, path)
            if found is not None:
                captions += bool(found.caption)
                yield found
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        logger.warning("%s is damaged (%s): the rest of it is left out.", path, error)
        return
    if not captions:
        logger.warning("%s: no image in it has a caption, a .txt of the same stem.", path)


def _read_members(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the files in a tar file, as webdataset takes them; nothing is unpacked to disk.

    Not by webdataset's own reader, which runs names such as ``pipe:...`` as commands, decompresses,
    and reads a file of any size.
    """
    require_file(path)
    with tarfile.open(path, "r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # of a million files
            if member.size > _MAX_MEMBER:  # to pass over what it claims may take days
                raise tarfile.ReadError(f"{member.name!r} claims {member.size:,} bytes")
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is not None:
                yield {"fname": member.name, "data": stream.read(), "__url__": str(path)}


def _captioned_sample(sample: dict[str, Any], path: Path) -> Captioned | None:
    image = next((sample[suffix] for suffix in _IMAGE_SUFFIXES if suffix in sample), None)
    if image is None:
        return None
    caption = next((sample[suffix] for suffix in _CAPTION_SUFFIXES if suffix in sample), b"")
    name = f"{path}, {sample['__key__']}"
    nouns = None
    if _NOUN_SUFFIX in sample:
        nouns = parse_json(sample[_NOUN_SUFFIX].decode("utf-8", "replace"), f"{name}, nouns")
        if not isinstance(nouns, list) or not all(isinstance(noun, str) for noun in nouns):
            raise UsageError("its nouns are no list of words", name)
        nouns = tuple(nouns)
    text = caption[: 4 * _MAX_CAPTION].decode("utf-8", "replace").strip()[:_MAX_CAPTION]
    return Captioned(image, text, nouns, name)

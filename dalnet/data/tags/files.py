# SPDX-License-Identifier: Apache-2.0
"""Choosing the reader of a file of tags."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dalnet.errors import UsageError
from dalnet.io import read_text

from .documents import read_json, read_json_lines, read_xml
from .table import TagTable, read_table

_READERS = {
    ".csv": read_table,
    ".tsv": read_table,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".xml": read_xml,
}


# Parts of a data set, in which exports of classifiers (ImageFolder, Roboflow) have the classes.
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_tags(path: Path) -> TagTable:
    """Read a file of tags; its suffix says how.

    Args:
        path: ``.csv`` or ``.tsv`` (:func:`.table.read_table`), ``.json`` (image to tags, COCO,
            Label Studio, Create ML), ``.jsonl`` or ``.xml`` (CVAT).

    Raises:
        UsageError: unreadable, of another kind, or without any image.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError("an unknown kind of file", path, f"name one of {', '.join(_READERS)}")
    table = reader(path, read_text(path))
    if not table.shown:
        raise UsageError("it names no image", path, "write one line for each image")
    return table


def read_folder_tags(root: Path, files: Iterable[str]) -> TagTable:
    """Tag images by the sub-folder that they lie in, one for each class.

    Args:
        root: the folder of the images.
        files: the images, as POSIX paths relative to it.

    Raises:
        UsageError: images lie in ``root`` itself, or the sub-folders are the parts of a data set.
    """
    table = TagTable(root)
    for name in files:
        parts = PurePosixPath(name).parts
        if len(parts) == 1:
            what = f"{name} lies in no folder of a class"
            raise UsageError(what, root, "name a file of tags, or move it into its class's folder")
        table.add(name, [parts[0]], parts[0])
    table.classes = sorted({tags[0] for tags in table.shown.values() if tags})
    if len(table.classes) > 1 and {name.casefold() for name in table.classes} <= _PARTS:
        what = f"its folders are parts of a data set, no classes: {', '.join(table.classes)}"
        raise UsageError(what, root, "name one of them, or a file of tags")
    return table

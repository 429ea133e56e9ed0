# SPDX-License-Identifier: Apache-2.0
"""The user's own data sets: every VOC-layout folder in the data root that has a ``classes.txt``."""

import logging
from pathlib import Path

from detectron2.data import DatasetCatalog

from dalnet.errors import UsageError
from dalnet.io import read_lines, reading_errors

from .catalog import datasets_root
from .voc_layout import register_voc_layout

CLASSES_FILE = "classes.txt"
_MASKS = "SegmentationClass"

logger = logging.getLogger(__name__)


def ensure_registered(name: str) -> bool:
    """Return whether a data set is registered, after a look at the user's folders if need be."""
    if name not in DatasetCatalog:
        register_custom()
    return name in DatasetCatalog


def register_custom() -> list[str]:
    """Register each list of images of each such folder as ``{folder}_{list}``.

    Names that are registered already stay as they are. A folder with an unusable ``classes.txt`` or
    lists that cannot be read is named in a warning and left out, since only one of many data sets
    is wanted. Returns the names that are new.
    """
    names: list[str] = []
    for path in sorted(datasets_root().glob(f"*/{CLASSES_FILE}")):
        try:
            names += _register_folder(path.parent.absolute())
        except UsageError as error:
            logger.warning("The data sets of %s are left out: %s", path.parent, error)
    return names


@reading_errors()
def _register_folder(root: Path) -> list[str]:
    lists = root / "ImageSets" / "Segmentation"
    # Unlike glob, iterdir does not take a folder that it may not list for an empty one.
    files = sorted(lists.iterdir()) if lists.is_dir() else []
    names = {f"{root.name}_{path.stem}": path.stem for path in files if path.suffix == ".txt"}
    new = [name for name in names if name not in DatasetCatalog]
    classes = read_classes(root / CLASSES_FILE)
    for name in new:
        register_voc_layout(
            name,
            root,
            list(classes),
            split=names[name],
            mask_folder=_MASKS if (root / _MASKS).is_dir() else None,
            prompt_names=list(classes.values()),
        )
    return new


def read_classes(path: Path) -> dict[str, str]:
    """Read foreground classes and the words that the text prompts call them by.

    Args:
        path: text file with one class a line, ``name`` or ``name: words``, in the order of the
            mask values 1..C. Empty lines and spaces around names count for nothing.

    Returns:
        Words by name, in that order.

    Raises:
        UsageError: unreadable, empty, a line without a name, a name that occurs twice, or the
            background as a class.
    """
    classes: dict[str, str] = {}
    for line in read_lines(path, "write one class a line"):
        name, _, words = (part.strip() for part in line.partition(":"))
        if not name or name in classes:
            raise UsageError(f"the line {line!r}", path, "each class needs a name of its own")
        if name.casefold() == "background":
            raise UsageError(f"the line {line!r}", path, "it is class 0 by itself; leave it out")
        classes[name] = words or name
    return classes

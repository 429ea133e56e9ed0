# SPDX-License-Identifier: Apache-2.0
"""The user's own data sets: every VOC-layout folder in the data root that has a ``classes.txt``."""

import logging
from pathlib import Path

from detectron2.data import DatasetCatalog

from dalnet.data.class_names import plain_name
from dalnet.errors import UsageError
from dalnet.io import read_lines, reading_errors

from .catalog import datasets_root, refuse_other_words
from .voc_layout import register_voc_layout

CLASSES_FILE = "classes.txt"
_MASKS = "SegmentationClass"

logger = logging.getLogger(__name__)


def ensure_registered(name: str) -> bool:
    """Return whether a data set is registered, after a look at the user's folders if need be.

    Raises:
        UsageError: its folder cannot be used, or two folders have a list that gives it this name.
    """
    if name not in DatasetCatalog:
        register_custom(asked=name)
    return name in DatasetCatalog


def register_custom(asked: str = "") -> list[str]:
    """Register each list of images of each such folder as ``{folder}_{list}``.

    Names that are registered already stay as they are. A folder with an unusable ``classes.txt``,
    lists that cannot be read and names that two folders give are named in a warning and left out,
    since only one of many data sets is wanted, ``asked``. Returns the names that are new.

    Raises:
        UsageError: ``asked`` is not found and may be of a folder that is left out, or two folders
            have a list that gives it.
    """
    unusable: dict[str, UsageError] = {}
    places: dict[str, list[tuple[Path, str, dict[str, str]]]] = {}
    for path in sorted(datasets_root().glob(f"*/{CLASSES_FILE}")):
        root = path.parent.absolute()
        try:
            splits, classes = _list_splits(root), read_classes(path)
        except UsageError as error:
            logger.warning("The data sets of %s are left out: %s", root, error)
            unusable[f"{root.name}_"] = error
            continue
        for split in splits:
            places.setdefault(f"{root.name}_{split}", []).append((root, split, classes))
    new = [name for name in places if name not in DatasetCatalog]
    for name in list(new):
        (root, split, classes), *others = places[name]
        if others:
            new.remove(name)
            what = f"{others[0][0]} has a list that gives it the same name as one of {root}"
            clash = UsageError(what, name, "rename a folder or a list")
            if name == asked:
                raise clash
            logger.warning("%s", clash)
            continue
        register_voc_layout(
            name,
            root,
            list(classes),
            split=split,
            mask_folder=_MASKS if (root / _MASKS).is_dir() else None,
            prompt_names=list(classes.values()),
        )
    for prefix, reason in unusable.items():
        if asked.startswith(prefix) and asked not in DatasetCatalog:
            raise reason
    return new


@reading_errors()
def _list_splits(root: Path) -> list[str]:
    lists = root / "ImageSets" / "Segmentation"
    # Unlike glob, iterdir does not take a folder that it may not list for an empty one.
    files = sorted(lists.iterdir()) if lists.is_dir() else []
    return [path.stem for path in files if path.suffix == ".txt"]


def read_classes(path: Path) -> dict[str, str]:
    """Read foreground classes and the words that the text prompts call them by.

    Args:
        path: text file with one class a line, ``name`` or ``name: words``, in the order of the
            mask values 1..C. Empty lines and spaces around names count for nothing.

    Returns:
        Words by name, in that order.

    Raises:
        UsageError: unreadable, empty, a line without a name, a name that occurs twice, or that is
            none of a class (:func:`.catalog.refuse_other_words`).
    """
    classes: dict[str, str] = {}
    for line in read_lines(path, "write one class a line"):
        where = f"{path}, line {line!r}"
        name, _, words = (part.strip() for part in line.partition(":"))
        name = plain_name(name)
        if not name or name in classes:
            raise UsageError("a name that is missing or taken", where, "give each class its own")
        refuse_other_words([name, words], where)
        classes[name] = words or name
    return classes

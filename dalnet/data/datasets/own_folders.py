# SPDX-License-Identifier: Apache-2.0
"""The user's own data sets: every VOC-layout folder in the data root that has a ``classes.txt``."""

import logging
from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.voc_layout import register_voc_layout
from dalnet.errors import UsageError

CLASSES_FILE = "classes.txt"
_MASKS = "SegmentationClass"

logger = logging.getLogger(__name__)


def register_own_folders() -> list[str]:
    """Register each list of images of each such folder as ``{folder}_{list}``.

    A folder with an unusable ``classes.txt`` is named in a warning and left out: this runs on
    import, where only one of many data sets is wanted.

    Returns:
        The names of the data sets.
    """
    names = []
    for path in sorted(datasets_root().glob(f"*/{CLASSES_FILE}")):
        try:
            classes = read_classes(path)
        except UsageError as error:
            logger.warning("The data sets of %s are left out: %s", path.parent, error)
            continue
        root = path.parent.absolute()
        for image_list in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
            names.append(f"{root.name}_{image_list.stem}")
            register_voc_layout(
                names[-1],
                root,
                list(classes),
                split=image_list.stem,
                mask_folder=_MASKS if (root / _MASKS).is_dir() else None,
                prompt_names=list(classes.values()),
            )
    return names


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise UsageError(f"{path} cannot be read as text ({e}); write one class a line.") from e
    classes: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, _, words = (part.strip() for part in line.partition(":"))
        if not name or name in classes:
            raise UsageError(f"{path} has the line {line!r}; each class needs a name of its own.")
        if name.casefold() == "background":
            raise UsageError(
                f"{path} has the line {line!r}; it is class 0 by itself, so leave it out."
            )
        classes[name] = words or name
    if not classes:
        raise UsageError(f"{path} is empty; write one class a line.")
    return classes

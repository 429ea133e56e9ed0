# SPDX-License-Identifier: Apache-2.0
"""Register data sets in Detectron2's two catalogs."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from dalnet.data.class_names import fault_of_name
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError

IGNORE_LABEL = 255
_NO_CLASSES = {"background", "ignore", "ignored", "none", "void", "unlabeled", "unlabelled"}


def datasets_root() -> Path:
    """Return ``$DETECTRON2_DATASETS`` as it is now; ``datasets`` where it is not set."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def register(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    classes: Sequence[str],
    prompt_names: Sequence[str] | None = None,
) -> None:
    """Register a data set with the metadata that DALNet and ``SemSegEvaluator`` read.

    Registering a name again replaces it, so that modules and notebook cells may run twice.

    Args:
        name: its name in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        load: returns the list of data set dicts; called whenever the list is asked for.
        classes: the C foreground classes, in the order of labels and mask values.
        prompt_names: the C words for the text prompts; ``classes`` where not given.

    Raises:
        UsageError: a class that occurs twice, or whose name is none of a class.
    """
    refuse_other_words([*classes, *(prompt_names or ())], name)
    stuff_classes = ["background", *classes]
    (most_common, times), *_ = Counter(stuff_classes).most_common(1)
    if times > 1:
        # Results go by these names.
        what = f"it has {times} classes called {most_common!r}, counting the background (class 0)"
        raise UsageError(what, where=name, hint="give each class one name of its own")
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, load)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        stuff_classes=stuff_classes,
        stuff_colors=voc_palette(len(stuff_classes)),
        prompt_names=list(prompt_names or classes),
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg",
    )


def refuse_other_words(names: Sequence[str], where: object) -> None:
    """Refuse what stands in lists of classes and is no class.

    Raises:
        UsageError: the background in any spelling, which is class 0 by itself, words for pixels
            that count for nothing, a comment, a color, or what cannot be printed.
    """
    for name in names:
        if fault := fault_of_name(name):
            raise UsageError(f"{name!r} {fault}", where, "write another name")
        if letters_of(name) in _NO_CLASSES:
            hint = "leave it out: the background is class 0 by itself, and 255 is ignored"
            raise UsageError(f"{name!r} is no class", where, hint)
        if name.startswith("#") or re.match(r"\d+[\s,]+\d+[\s,]+\d+", name):
            what = f"{name!r} is a comment or a color"
            raise UsageError(what, where, "write nothing but the name of a class, one a line")


def letters_of(name: str) -> str:
    """Return a name in small letters and digits alone: "background" for "_Background_"."""
    return re.sub(r"[\W_]+", "", name.casefold())


def class_table(name: str) -> tuple[list[str], list[list[int]]]:
    """Return the C + 1 class names of a data set, background first, and their RGB in 0..255."""
    metadata = MetadataCatalog.get(name)
    names = list(metadata.stuff_classes)
    return names, metadata.get("stuff_colors", voc_palette(len(names)))

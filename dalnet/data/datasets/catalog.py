# SPDX-License-Identifier: Apache-2.0
"""What every data set of this package puts into Detectron2's two catalogs."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError

IGNORE_LABEL = 255


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
        UsageError: a class that occurs twice, or that is called ``background``, which is class 0.
    """
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


def class_table(name: str) -> tuple[list[str], list[list[int]]]:
    """Return the C + 1 class names of a data set, background first, and their RGB in 0..255."""
    metadata = MetadataCatalog.get(name)
    names = list(metadata.stuff_classes)
    return names, metadata.get("stuff_colors", voc_palette(len(names)))

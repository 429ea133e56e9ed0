# SPDX-License-Identifier: Apache-2.0
"""Write the names of the classes into a config, which a checkpoint keeps with it."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from dalnet.errors import UsageError


def fill_class_names(cfg: CfgNode) -> None:
    """Set empty ``MODEL.CLASS_NAMES`` and ``PROMPT_NAMES`` to those of the training data set.

    A data set that is not registered, or has no classes, leaves them empty. Class names that are
    given are the prompt names, too, unless they are those of the data set, which may have others.

    Raises:
        UsageError: prompt names that are not as many as the classes without the background.
    """
    if not (cfg.MODEL.CLASS_NAMES and cfg.MODEL.PROMPT_NAMES):
        name = next(iter(cfg.DATASETS.TRAIN), "")
        metadata = MetadataCatalog.get(name) if name in MetadataCatalog else Metadata()
        classes = tuple(metadata.get("stuff_classes", ()))
        cfg.MODEL.CLASS_NAMES = own = tuple(cfg.MODEL.CLASS_NAMES) or classes
        words = metadata.get("prompt_names", own[1:]) if own == classes else own[1:]
        cfg.MODEL.PROMPT_NAMES = tuple(cfg.MODEL.PROMPT_NAMES) or tuple(words)
    count, words = len(cfg.MODEL.CLASS_NAMES) - 1, len(cfg.MODEL.PROMPT_NAMES)
    if words and count >= 0 and words != count:
        what = f"it has {words} names for {count} classes without the background"
        raise UsageError(what, "MODEL.PROMPT_NAMES", "give one for each, in their order")


def with_class_names(cfg: CfgNode) -> CfgNode:
    """Return a copy of ``cfg`` that has the names of the classes."""
    filled = cfg.clone()
    filled.defrost()
    fill_class_names(filled)
    return filled


def class_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Return where the first list of classes differs from the second; empty if they are equal.

    Names and order count: with as many classes in another order, every label would be taken for
    that of another class.
    """
    for value, (name, other) in enumerate(zip(names, others, strict=False)):
        if name != other:
            return f"class {value} is {name!r}, not {other!r}"
    return "" if len(names) == len(others) else f"they are {len(names)}, not {len(others)}"

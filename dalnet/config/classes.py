# SPDX-License-Identifier: Apache-2.0
"""The names of the classes in a config, which a checkpoint keeps with it."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog


def fill_class_names(cfg: CfgNode) -> None:
    """Set empty ``MODEL.CLASS_NAMES`` and ``PROMPT_NAMES`` to those of the training data set.

    A data set that is not registered, or has no classes, leaves them empty.
    """
    name = next(iter(cfg.DATASETS.TRAIN), "")
    metadata = MetadataCatalog.get(name) if name in MetadataCatalog else None
    if cfg.MODEL.CLASS_NAMES or not hasattr(metadata, "stuff_classes"):
        return
    cfg.MODEL.CLASS_NAMES = tuple(metadata.stuff_classes)
    cfg.MODEL.PROMPT_NAMES = tuple(metadata.get("prompt_names", metadata.stuff_classes[1:]))


def with_class_names(cfg: CfgNode) -> CfgNode:
    """Return ``cfg``, or a copy with the names filled in where it has none."""
    if cfg.MODEL.CLASS_NAMES:
        return cfg
    filled = cfg.clone()
    filled.defrost()
    fill_class_names(filled)
    filled.freeze()
    return filled

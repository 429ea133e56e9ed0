# SPDX-License-Identifier: Apache-2.0
"""PASCAL VOC 2012 with the masks of SBD: ``voc_2012_sem_seg_{train,train_aug,val,test}``."""

from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from .catalog import datasets_root
from .voc_layout import register_voc_layout

VOC_CLASSES: tuple[str, ...] = tuple(CLASS_NAMES)

# Class names that are not words.
_WORDS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
_MASK_FOLDERS = {
    "train": "SegmentationClass",
    "train_aug": "SegmentationClassAug",
    "val": "SegmentationClass",
    "test": None,
}
_HOW_TO_GET = (
    "unpack VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012, set "
    "DETECTRON2_DATASETS to the folder that holds VOC2012, and run dalnet prepare voc for "
    "train_aug"
)


def register_voc() -> None:
    """Register the four splits of VOC 2012; ``test`` has neither masks nor labels."""
    for split, mask_folder in _MASK_FOLDERS.items():
        register_voc_layout(
            f"voc_2012_sem_seg_{split}",
            lambda: datasets_root() / "VOC2012",
            VOC_CLASSES,
            split=split,
            mask_folder=mask_folder,
            labeled=split != "test",
            prompt_names=[_WORDS.get(name, name) for name in VOC_CLASSES],
            how_to_get=_HOW_TO_GET,
        )

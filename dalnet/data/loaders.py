# SPDX-License-Identifier: Apache-2.0
"""The loaders over a system's mapper, valid for Detectron2 v0.5 and later."""

import logging
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.utils import comm
from torch.utils.data import DataLoader

from dalnet.config.checks import check_rules, one_of
from dalnet.errors import UsageError
from dalnet.files import reading_errors

from .datasets import ensure_registered
from .image_io import read_image
from .labels import filter_unlabeled
from .mapper import build_mapper
from .samplers import build_sampler

logger = logging.getLogger(__name__)

# A crop of VOC's recipe spans about one short side of an image.
_MAX_SIDES_TO_CROP = 3.0

# Training views have one size; a grouping would only break the order that a resumed run goes on in.
_RULES = (one_of((False,), "DATALOADER.ASPECT_RATIO_GROUPING"),)


class TrainLoader(DataLoader):
    """Endless batches of one process, which can begin anywhere in the order of the images."""

    _begun = False

    def start_at(self, batch: int) -> None:
        """Begin with the batch of this number, as a resumed training does.

        Raises:
            RuntimeError: a batch has been asked for already.
        """
        if self._begun:
            raise RuntimeError("the loader has begun: set where it starts before its first batch")
        self.sampler.start_index = batch * self.batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yield batches, the first of which is read when it is asked for.

        Detectron2 0.5 makes this iterator when the trainer is built, before the trainer knows
        where to go on; workers that ran at once would read the wrong images.
        """
        self._begun = True
        yield from super().__iter__()


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Build the endless, shuffled loader over ``cfg.DATASETS.TRAIN``.

    Returns:
        A loader of lists of mapped dicts (see :class:`~dalnet.data.ImageLabelMapper`), as many as
        this process's share of ``SOLVER.IMS_PER_BATCH``; where the model is on a GPU, their tensors
        are in pinned memory.

    Raises:
        UsageError: no or an unknown data set, a number of classes that does not fit
            ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``, an unknown sampler or mapper, images without labels
            that the policy refuses.
    """
    names, batch_size = list(cfg.DATASETS.TRAIN), _images_per_process(cfg)
    check_rules(cfg, _RULES)
    check_datasets(cfg, names, "DATASETS.TRAIN")
    dicts = get_detection_dataset_dicts(names, filter_empty=False)
    dicts = filter_unlabeled(dicts, cfg.DATASETS.UNLABELED_IMAGES)
    _warn_of_large_images(cfg, [record["file_name"] for record in dicts])
    # Not by Detectron2's builder: that of version 0.5 cannot pin memory.
    return TrainLoader(
        MapDataset(DatasetFromList(dicts, copy=False), build_mapper(cfg, is_train=True)),
        sampler=build_sampler(cfg, dicts),
        batch_size=batch_size,
        drop_last=True,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=worker_init_reset_seed,
        pin_memory=torch.cuda.is_available() and torch.device(cfg.MODEL.DEVICE).type == "cuda",
    )


def _images_per_process(cfg: CfgNode) -> int:
    number, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if rest:
        raise ValueError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared evenly")
    return number


def build_test_loader(
    cfg: CfgNode, dataset_name: str, dicts: list[dict[str, Any]] | None = None
) -> Iterable[list[dict[str, Any]]]:
    """Build the loader that yields every image of a data set once, one at a time.

    Args:
        cfg: whose ``INPUT`` and ``DATALOADER`` are used.
        dataset_name: of the data set.
        dicts: the part of it to read; all of it where not given.

    Returns:
        A loader of lists of one mapped dict (see :class:`~dalnet.data.ImageLabelMapper`).

    Raises:
        UsageError: an unknown data set, a number of classes that does not fit
            ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``, a missing mask, or a folder of masks that cannot
            be read.
    """
    check_datasets(cfg, [dataset_name], "DATASETS.TEST")
    if dicts is None:
        dicts = get_detection_dataset_dicts([dataset_name], filter_empty=False)
    _check_masks(dicts)
    return build_detection_test_loader(
        dicts, mapper=build_mapper(cfg, is_train=False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )


def check_datasets(cfg: CfgNode, names: Sequence[str], key: str) -> None:
    """Refuse ``names``, the value of config key ``key``, if they cannot be used together.

    The user's own folders are looked through for names that are not registered yet.

    Raises:
        UsageError: no or an unknown data set, or classes that differ in number, name or order: of
            the data sets among each other, from ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``, or from
            ``MODEL.CLASS_NAMES`` (where empty, those of ``DATASETS.TRAIN``).
    """
    if not names:
        raise UsageError(f"{key} is empty: name at least one data set.")
    unknown = next((name for name in names if not ensure_registered(name)), None)
    if unknown is not None:
        ours = [n for n in DatasetCatalog if hasattr(MetadataCatalog.get(n), "prompt_names")]
        raise UsageError(
            f"{key} names the unknown data set {unknown!r}: choose from "
            f"{', '.join(sorted(ours))}, or add your own (docs/data.md)."
        )
    classes = _class_names(names[0])
    differing = next((name for name in names if _class_names(name) != classes), None)
    if differing:
        raise UsageError(
            f"{key} mixes the classes of {names[0]} and {differing}: name one of them."
        )
    head = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(classes) != head:
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head}, but {names[0]} has {len(classes)} "
            f"classes with background: set the key to {len(classes)} or name another data set."
        )
    _check_model_classes(cfg, names[0], key)


def _check_model_classes(cfg: CfgNode, name: str, key: str) -> None:
    """Refuse a data set whose labels a model of as many classes would take for others."""
    training = next(iter(cfg.DATASETS.TRAIN), "")
    expected = list(cfg.MODEL.CLASS_NAMES)
    if not expected and ensure_registered(training):
        expected = _class_names(training)
    pairs = zip(expected, _class_names(name), strict=False)
    for value, (wanted, found) in enumerate(pairs):
        if wanted != found:
            raise UsageError(
                f"{key} names {name}, whose class {value} is {found!r}, but the model's is "
                f"{wanted!r}: name a data set of the same classes in the same order."
            )


def _class_names(dataset_name: str) -> list[str]:
    return list(MetadataCatalog.get(dataset_name).get("stuff_classes", []))


def _warn_of_large_images(cfg: CfgNode, paths: Sequence[str], samples: int = 5) -> None:
    """Crops have all labels of their image: warn where they show next to nothing of it."""
    if any(cfg.INPUT.MIN_SIZE_TRAIN) or not paths:
        return
    chosen = paths[:: max(len(paths) // samples, 1)][:samples]
    side = statistics.median(min(read_image(path).shape[:2]) for path in chosen)
    factor = statistics.mean(cfg.INPUT.RESCALE_RANGE)
    if side * factor > _MAX_SIDES_TO_CROP * min(cfg.INPUT.CROP.SIZE):
        logger.warning(
            "the images have about %d pixels on the short side, of which a crop of %s after "
            "INPUT.RESCALE_RANGE %s shows a small part, yet with all labels; INPUT.MIN_SIZE_TRAIN "
            "'(375,)' and INPUT.MIN_SIZE_TEST 375 bring them to VOC's size.",
            side,
            tuple(cfg.INPUT.CROP.SIZE),
            tuple(cfg.INPUT.RESCALE_RANGE),
        )


@reading_errors()
def _check_masks(dicts: Sequence[dict[str, Any]]) -> None:
    masks = [d["sem_seg_file_name"] for d in dicts if "sem_seg_file_name" in d]
    present = {
        os.path.join(folder, name)
        for folder in {os.path.dirname(mask) for mask in masks}
        if os.path.isdir(folder)
        for name in os.listdir(folder)
    }
    missing = [mask for mask in masks if mask not in present]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(masks)} masks missing, the first is {missing[0]}: evaluation "
            "needs them; unpack them, or make them with tools/prepare_coco.py (COCO) or "
            "tools/prepare_sbd.py (SBD)."
        )

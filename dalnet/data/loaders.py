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

from dalnet.errors import UsageError
from dalnet.files import reading_errors

from .image_io import read_image
from .labels import filter_unlabeled
from .mapper import build_mapper
from .samplers import build_sampler

logger = logging.getLogger(__name__)

# A crop of VOC's recipe spans about one short side of an image.
_MAX_SIDES_TO_CROP = 3.0


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
            that the policy refuses, or a batch that the processes cannot share.
    """
    names, batch_size = list(cfg.DATASETS.TRAIN), _images_per_process(cfg)
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
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        raise UsageError(
            "DATALOADER.ASPECT_RATIO_GROUPING is True, but training views have one size: set it to "
            "False."
        )
    total, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total % processes:
        raise UsageError(
            f"SOLVER.IMS_PER_BATCH is {total}, which {processes} processes cannot share evenly: "
            f"set it to a multiple of {processes}."
        )
    return total // processes


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

    Raises:
        UsageError: no or an unknown data set, data sets of different classes, or a number of
            classes that does not fit ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``.
    """
    if not names:
        raise UsageError(f"{key} is empty: name at least one data set.")
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown:
        ours = [n for n in DatasetCatalog if hasattr(MetadataCatalog.get(n), "prompt_names")]
        raise UsageError(
            f"{key} names the unknown data set {unknown[0]!r}: choose from "
            f"{', '.join(sorted(ours))}, or add your own (docs/data.md)."
        )
    classes = [MetadataCatalog.get(name).get("stuff_classes", []) for name in names]
    differing = next((n for n, c in zip(names, classes, strict=True) if c != classes[0]), None)
    if differing:
        raise UsageError(
            f"{key} mixes the classes of {names[0]} and {differing}: name one of them."
        )
    head = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if len(classes[0]) != head:
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head}, but {names[0]} has {len(classes[0])} "
            f"classes with background: set the key to {len(classes[0])} or name another data set."
        )


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

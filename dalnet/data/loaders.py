# SPDX-License-Identifier: Apache-2.0
"""Build the loaders of training and evaluation, for Detectron2 v0.5 and later."""

import gc
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset

from dalnet.config.checks import check_rules, one_of
from dalnet.errors import UsageError

from .checks import (
    check_corrected_masks,
    check_datasets,
    check_masks,
    warn_of_large_images,
)
from .classes import number_as_model
from .image_headers import keep_readable
from .labels import filter_unlabeled, warn_of_unlearnable
from .mapper import Mapper, build_mapper
from .samplers import ResumableSampler, build_sampler
from .seeded import seeded_generators

logger = logging.getLogger(__name__)

_RULES = (
    one_of(("skip", "refuse"), "DATASETS.UNLABELED_IMAGES"),
    # Training views have one size; grouped, they would only come in an order that cannot resume.
    one_of((False,), "DATALOADER.ASPECT_RATIO_GROUPING"),
)


class TrainImages(Dataset[dict[str, Any]]):
    """Mapped records of training; in place of an image that cannot be read comes the next one.

    The inputs then have ``skipped``, the errors of the images before it.
    """

    def __init__(self, records: list[dict[str, Any]], mapper: Mapper, seed: int) -> None:
        self.records = DatasetFromList(records, copy=False)
        self.mapper = PicklableWrapper(mapper)  # also where workers do not fork
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        """Return the inputs for a sample; if no record can be read, ``skipped`` alone.

        Args:
            sample: its number in the training, from which alone its views are drawn, and the number
                of its record.
        """
        number, index = sample
        skipped: list[UsageError] = []
        with seeded_generators(self.seed, number):
            for step in range(len(self)):
                try:
                    inputs = self.mapper(self.records[(index + step) % len(self)])
                except UsageError as error:
                    skipped.append(error)
                else:
                    return inputs | {"skipped": skipped} if skipped else inputs
        return {"skipped": skipped}


class ResumableLoader(DataLoader[dict[str, Any]]):
    """Endless batches of one process, which can begin anywhere in the order of the images.

    Attributes:
        skipped: a sentence for each image that cannot be read and was skipped.
    """

    _begun = False

    def __init__(self, images: Dataset[dict[str, Any]], **settings: Any) -> None:
        """Batch images as PyTorch's loader does with these settings, all but ``generator``."""
        # The seeds of workers would else be drawn from the generator that the model draws from.
        settings = {"worker_init_fn": share_memory} | settings
        super().__init__(images, **settings, generator=torch.Generator())
        self.skipped: dict[str, None] = {}  # in the order of their turns

    def start_at(self, batch: int) -> None:
        """Begin with the batch of this number, as a resumed training does.

        Raises:
            RuntimeError: a batch has been asked for already.
        """
        if self._begun:
            raise RuntimeError("the loader has begun: set where it starts before its first batch")
        self._pass_over(batch)

    def note_skipped(self, errors: Iterable[UsageError]) -> None:
        """Log each skipped image once, and keep the sentence that says why."""
        for sentence in map(str, errors):
            if sentence not in self.skipped:
                self.skipped[sentence] = None
                logger.warning("skipped image %d: %s", len(self.skipped), sentence)

    def _pass_over(self, batches: int) -> None:
        """Let the order begin so many batches later."""
        assert isinstance(self.sampler, ResumableSampler) and self.batch_size
        self.sampler.start_index = batches * self.batch_size * comm.get_world_size()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        """Yield batches, the first of which is read when it is asked for.

        Detectron2 0.5 makes this iterator when the trainer is built, before the trainer knows
        where to go on; workers that ran at once would read the wrong images.

        Raises:
            RuntimeError: a worker has ended, in PyTorch's words.
        """
        self._begun = True
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # It ended while it handed over a batch, before PyTorch had noticed. What a worker
            # itself raises is "Caught ... in DataLoader worker process".
            if not self.num_workers or str(error).startswith("Caught"):
                raise
            raise RuntimeError(f"DataLoader worker (pid unknown) has ended: {error!r}") from error


class TrainLoader(ResumableLoader):
    """A loader of images with labels, which counts those that cannot be read.

    Attributes:
        strict: whether an image that cannot be read is an error; else it is skipped.
        skipped: the sentences of those that were skipped so far, or left out from the beginning.
    """

    def __init__(
        self,
        images: TrainImages,
        strict: bool,
        left_out: Sequence[UsageError] = (),
        **settings: Any,
    ) -> None:
        """Batch images as PyTorch's loader does with these settings.

        Args:
            images: those that are read.
            strict: see :class:`TrainLoader`.
            left_out: errors of images that are not among them.
            settings: of PyTorch's loader.
        """
        super().__init__(images, **settings)
        self.strict = strict
        self.skipped = dict.fromkeys(map(str, left_out))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        """Yield batches, see :class:`ResumableLoader`.

        Raises:
            UsageError: an image that cannot be read where that is an error, or none that can.
        """
        for batch in super().__iter__():
            for inputs in batch:
                errors = inputs.pop("skipped", [])
                if errors and (self.strict or not inputs):
                    raise errors[0]
                self.note_skipped(errors)
            yield batch


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Build the endless, shuffled loader over ``cfg.DATASETS.TRAIN``.

    The order of the images and their views come from ``SEED`` alone (:mod:`dalnet.data.seeded`); a
    negative one is replaced by one that is drawn, the same in all processes.

    Returns:
        A loader of lists of mapped dicts (see :class:`~dalnet.data.ImageLabelMapper`), as many as
        this process's share of ``SOLVER.IMS_PER_BATCH``; where the model is on a GPU, their tensors
        are in pinned memory.

    Raises:
        UsageError: data sets that cannot be used (:func:`~dalnet.data.check_datasets`), an unknown
            sampler or mapper, images without labels that the policy refuses, or images that cannot
            be read under ``DATALOADER.STRICT``, now or in their turn.
    """
    check_rules(cfg, _RULES)
    names = list(cfg.DATASETS.TRAIN)
    check_datasets(cfg, names, "DATASETS.TRAIN")
    dicts = _list_records(names, "DATASETS.TRAIN")
    classes = MetadataCatalog.get(names[0]).stuff_classes[1:]
    dicts = filter_unlabeled(dicts, len(classes), cfg.DATASETS.UNLABELED_IMAGES)
    dicts, left_out = keep_readable(dicts, cfg.DATALOADER.STRICT)
    check_corrected_masks(dicts, len(classes) + 1)
    warn_of_unlearnable(dicts, classes)
    warn_of_large_images(cfg, [record["file_name"] for record in dicts])
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    # Not by Detectron2's builder: that of version 0.5 cannot pin memory.
    return TrainLoader(
        TrainImages(dicts, build_mapper(cfg, is_train=True), seed),
        strict=cfg.DATALOADER.STRICT,
        left_out=left_out,
        sampler=build_sampler(cfg, dicts, seed),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        drop_last=True,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        pin_memory=pins_memory(cfg),
    )


def _list_records(names: Sequence[str], key: str) -> list[dict[str, Any]]:
    """Return the records of several data sets as one list.

    Raises:
        UsageError: one has none.
    """
    try:
        return get_detection_dataset_dicts(list(names), filter_empty=False)
    except AssertionError as error:  # in words that name neither key nor remedy
        empty = next((name for name in names if not DatasetCatalog.get(name)), None)
        if empty is None:
            raise
        raise UsageError(f"{empty} has no images", key, "name another data set") from error


def share_memory(worker: int) -> None:
    """Stop the garbage collector in a worker from copying memory shared with the main process.

    The operating system copies shared memory when a process writes to it, and Python's garbage
    collector writes to each object that it looks at. It leaves out what is frozen. Otherwise every
    worker would come to have a copy of all records that the main process has listed.
    """
    gc.freeze()


def pins_memory(cfg: CfgNode) -> bool:
    """Return whether batches belong in pinned memory, as the model is on a GPU."""
    return torch.cuda.is_available() and torch.device(cfg.MODEL.DEVICE).type == "cuda"


def build_test_loader(
    cfg: CfgNode,
    dataset_name: str,
    dicts: list[dict[str, Any]] | None = None,
    *,
    any_order: bool = True,
) -> Iterable[list[dict[str, Any]]]:
    """Build the loader that yields every image of a data set once, one at a time.

    Args:
        cfg: whose ``INPUT`` and ``DATALOADER`` are used.
        dataset_name: of the data set.
        dicts: the part of it to read; all of it where not given.
        any_order: whether its classes may be numbered otherwise than the model's. Labels are then
            matched by name; masks have to be read by :func:`dalnet.data.classes.read_truth`.

    Returns:
        A loader of lists of one mapped dict (see :class:`~dalnet.data.ImageLabelMapper`).

    Raises:
        UsageError: a data set that cannot be used (:func:`~dalnet.data.check_datasets`), an image
            that cannot be read, a missing mask, or a folder of masks that cannot be read.
    """
    check_datasets(cfg, [dataset_name], "DATASETS.TEST", any_order=any_order)
    if dicts is None:
        dicts = _list_records([dataset_name], "DATASETS.TEST")
    if any_order:
        dicts = number_as_model(cfg, dataset_name, dicts)
    check_masks(dicts)
    keep_readable(dicts, strict=True)
    loader = build_detection_test_loader(
        dicts, mapper=build_mapper(cfg, is_train=False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    loader.worker_init_fn = share_memory
    return loader

# SPDX-License-Identifier: Apache-2.0
"""Training batches of captioned images: read, filtered, shuffled, and resumable anywhere."""

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import IterableDataset, get_worker_info

from dalnet.data.loaders import ResumableLoader, pins_memory
from dalnet.data.seeded import seeded_generators
from dalnet.errors import UsageError

from .caption_files import (
    JSON_LINES,
    Captioned,
    captioned_line,
    find_caption_files,
    read_captions,
    read_shard,
)
from .mapper import CaptionMapper
from .nouns import NounFinder, build_noun_finder

Record = dict[str, Any]
Usable = tuple[Captioned, list[str]]  # an image with its nouns

# So many unusable images in a row are no accident.
_MOST_REFUSED, _MOST_BROKEN = 10_000, 1_000

logger = logging.getLogger(__name__)


class CaptionStream(IterableDataset):
    """The endless training images of one process, in an order that the seed fixes.

    Each round has an order of its own: of lines and of shards, whose images a buffer mixes. Images
    without a caption or with fewer nouns than are drawn are left out; a broken image's place is
    taken by the next that can be read, so that what comes later stays where it is. What the mapper
    draws depends on the seed and on the image's place in this order alone.

    Attributes:
        start_batch: the first batch that is read; those before are passed over undecoded.
    """

    def __init__(
        self,
        files: Sequence[Path],
        mapper: Callable[[Captioned, Sequence[str]], Record],
        find_nouns: NounFinder | None = None,
        *,
        batch_size: int,
        num_nouns: int = 2,
        seed: int = 0,
        buffer: int = 1000,
        strict: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            files: of :func:`find_caption_files`.
            mapper: from an image and its nouns to a record; raises a UsageError where the image is
                broken.
            find_nouns: for captions that bring no nouns.
            batch_size: of this process.
            num_nouns: how many an image needs.
            seed: of the order.
            buffer: images of shards that are held in memory to be mixed, in each worker.
            strict: an image that cannot be read is an error.
            rank, world_size: this process, and of how many.
        """
        self._mapper, self._num_nouns = mapper, num_nouns
        # Also where workers do not fork.
        self._find_nouns = None if find_nouns is None else PicklableWrapper(find_nouns)
        self._seed, self._batch_size, self._strict = seed, batch_size, strict
        self._rank, self._world_size = rank, world_size
        self.start_batch = 0
        self._files = tuple(files)
        pieces: list[tuple[int, Record | None]] = []  # number of a file, and a line of it
        for number, file in enumerate(files):
            lines = read_captions(file) if file.suffix == JSON_LINES else [None]
            pieces += [(number, line) for line in lines]
        # Packed: millions of Python objects would be copied into every worker.
        self._pieces = DatasetFromList(pieces, copy=False)
        self._buffer = buffer if any(line is None for _, line in pieces) else 0

    def __iter__(self) -> Iterator[Record]:
        """Yield this worker's records.

        Of each, ``left_out`` counts what was left out before it, and ``skipped`` has the errors of
        the broken images before it.
        """
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        # Workers give batches in turn. The one that starts now has the part of the one whose turn
        # it would be, and passes over what that one has given already.
        number = (worker + self.start_batch) % workers
        given = len(range(number, self.start_batch, workers)) * self._batch_size
        left_out: Counter[str] = Counter()
        part, parts = self._rank * workers + number, self._world_size * workers
        usable = self._usable(self._raw(part, parts), left_out)
        stream = _mixed(usable, self._buffer, np.random.default_rng((self._seed, 1, part)))
        for _ in range(given):
            next(stream)
        left_out.clear()
        # Of each place the key that its random numbers are drawn from.
        keys = ((self._seed, 2, part, place) for place in itertools.count(given))
        yield from self._mapped(stream, keys, left_out)

    def _mapped(
        self, images: Iterator[Usable], keys: Iterator[tuple[int, ...]], left_out: Counter[str]
    ) -> Iterator[Record]:
        """Yield a record for each image; that of the next readable one in place of a broken one."""
        ahead: deque[tuple[Usable, UsageError | None]] = deque()  # with why it cannot be read
        for key in keys:
            image, error = ahead.popleft() if ahead else (next(images), None)
            found = error or self._read_image(image, key)
            skipped = []
            if isinstance(found, UsageError):
                skipped.append(found)
                left_out["broken images"] += 1
                found = self._read_next(images, ahead, key, found)
            yield {**found, "left_out": dict(left_out), "skipped": skipped}
            left_out.clear()

    def _read_next(
        self,
        images: Iterator[Usable],
        ahead: "deque[tuple[Usable, UsageError | None]]",
        key: tuple[int, ...],
        error: UsageError,
    ) -> Record:
        """Return the record of the next image that can be read; those looked at wait in ``ahead``.

        Raises:
            UsageError: there are too many broken images in a row, or one where none may be.
        """
        most = 1 if self._strict else _MOST_BROKEN
        for number in range(most - 1):
            if number == len(ahead):
                ahead.append((next(images), None))
            image, known = ahead[number]
            found = known or self._read_image(image, key)
            if not isinstance(found, UsageError):
                return found
            ahead[number], error = (image, found), found
        what = f"{most} images in a row cannot be read, the last one: {error}"
        raise UsageError(what, error.where)

    def _read_image(self, image: Usable, key: tuple[int, ...]) -> Record | UsageError:
        """Return the record of an image, its random numbers drawn by a key; or its error."""
        with seeded_generators(*key):
            try:
                return self._mapper(*image)
            except UsageError as error:
                return error

    def _raw(self, part: int, parts: int) -> Iterator[Captioned]:
        """Yield every ``parts``-th image, endlessly; whole shards where there are enough."""
        pieces = len(self._pieces)
        for round_ in itertools.count():
            order = np.random.default_rng((self._seed, 0, round_)).permutation(pieces)
            if pieces >= parts:
                images = self._read(order[part::parts])
            else:
                images = itertools.islice(self._read(order), part, None, parts)
            first = next(images, None)
            if first is None:
                raise UsageError(
                    f"there are no images for one of {parts} processes that read them",
                    "MODEL.CODE.CAPTIONS.FILES",
                    "name more files (damaged ones are in the log), or set "
                    "DATALOADER.NUM_WORKERS lower",
                )
            yield first
            yield from images

    def _read(self, pieces: np.ndarray) -> Iterator[Captioned]:
        for piece in pieces.tolist():
            number, line = self._pieces[piece]
            if line is None:
                yield from read_shard(self._files[number])
            else:
                yield captioned_line(self._files[number].parent, line)

    def _usable(self, images: Iterator[Captioned], left_out: Counter[str]) -> Iterator[Usable]:
        """Yield the images that can be learned from, with their nouns; count the others."""
        refused = 0
        for image in images:
            if not image.caption:
                left_out["images without a caption"] += 1
            else:
                nouns = self._nouns(image)
                if len(nouns) >= self._num_nouns:
                    refused = 0
                    yield image, nouns
                    continue
                left_out[f"captions with fewer than {self._num_nouns} nouns"] += 1
            refused += 1
            if refused >= _MOST_REFUSED:
                reasons = ", ".join(f"{count} {what}" for what, count in left_out.items())
                raise UsageError(
                    f"{refused} images in a row cannot be used ({reasons})",
                    image.name,
                    "correct the captions or how their nouns are found",
                )

    def _nouns(self, image: Captioned) -> list[str]:
        if image.nouns is not None:
            return list(dict.fromkeys(noun for noun in image.nouns if noun.strip()))
        if self._find_nouns is None:
            raise UsageError(
                "this caption does not bring its nouns",
                image.name,
                'set MODEL.CODE.CAPTIONS.NOUNS to "nltk" or "spacy" to have them found',
            )
        return self._find_nouns(image.caption)


def _mixed(images: Iterator[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """Yield the images in another order: each from a random place among ``size`` that wait."""
    waiting = list(itertools.islice(images, size))
    for image in images:
        if size:
            place = int(rng.integers(size))
            waiting[place], image = image, waiting[place]
        yield image


class CaptionLoader(ResumableLoader):
    """Endless batches of a :class:`CaptionStream`.

    Attributes:
        left_out: how many images were left out so far, by reason; logged as the number doubles.
    """

    left_out: Counter[str] = Counter()

    def _pass_over(self, batches: int) -> None:
        assert isinstance(self.dataset, CaptionStream)
        self.dataset.start_batch = batches

    def __iter__(self) -> Iterator[list[Record]]:  # type: ignore[override]
        """Yield batches, the first of which is read when it is asked for."""
        self.left_out = Counter()
        logged = 0
        for batch in super().__iter__():
            for record in batch:
                self.left_out.update(record.pop("left_out"))
                self.note_skipped(record.pop("skipped"))
            if self.left_out.total() > 2 * logged:
                logged = self.left_out.total()
                counts = ", ".join(f"{n} {what}" for what, n in self.left_out.most_common())
                logger.warning("Left out of the training so far: %s.", counts)
            yield batch


def build_caption_loader(cfg: CfgNode) -> CaptionLoader:
    """Build the endless loader over ``MODEL.CODE.CAPTIONS.FILES``.

    Returns:
        A loader of lists of records (see :class:`.mapper.CaptionMapper`), as many as this process's
        share of ``SOLVER.IMS_PER_BATCH``.

    Raises:
        UsageError: files that are missing or unreadable, or nouns that nothing can find.
    """
    captions = cfg.MODEL.CODE.CAPTIONS
    batch_size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    # Without a seed of its own every process has to draw the same order nevertheless.
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    stream = CaptionStream(
        find_caption_files(captions.FILES),
        CaptionMapper.from_config(cfg),
        build_noun_finder(cfg),
        batch_size=batch_size,
        num_nouns=cfg.MODEL.CODE.NOUNS,
        seed=seed,
        buffer=captions.SHUFFLE_BUFFER,
        strict=cfg.DATALOADER.STRICT,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    return CaptionLoader(
        stream,
        batch_size=batch_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=worker_init_reset_seed,
        pin_memory=pins_memory(cfg),
    )

# SPDX-License-Identifier: Apache-2.0
"""From predictions to counts, one image after the other; CRFs run beside the network."""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from dalnet.data.image_io import read_mask

from .counts import Counts, bin_cams
from .crf import CRFPool, CRFTask
from .dump import Dump, image_name
from .scorer import ImageCAMs, Prediction
from .sources import Measurement

_IMAGES_PER_WORKER = 2  # one at work and one waiting: enough to keep a CRF process busy
_SAVE_EVERY = 30.0  # seconds

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class _Pending(NamedTuple):
    """An image that has been through the network; its CRFs may still be at work."""

    name: str
    truth: np.ndarray | None
    predictions: "dict[Measurement, np.ndarray | Future[np.ndarray]]"

    def is_ready(self) -> bool:
        return all(not isinstance(p, Future) or p.done() for p in self.predictions.values())


class CountsEvaluator(DatasetEvaluator):
    """Counts predictions image by image; CRFs run beside the network.

    Attributes:
        counts: complete, at any time, for the images that they name.
    """

    def __init__(
        self,
        counts: Counts,
        pool: CRFPool | None = None,
        dump: Dump | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            counts: where images are counted.
            pool: runs the CRFs; may be None if no measurement has one.
            dump: writes predictions to disk; None for not.
            folder: where the counts of all ranks are saved now and then; None for nowhere.
        """
        self.counts = counts
        self._pool, self._dump, self._folder = pool, dump, folder
        self._waiting: deque[_Pending] = deque()
        self._saved_at = time.monotonic()

    def resume(self, records: Sequence[Record]) -> list[Record]:
        """Return the images that are left; those before are then in the main rank's counts."""
        earlier = self.counts.load(self._folder.glob("*.npz"))
        comm.synchronize()  # All have read what the main rank now changes.
        if comm.is_main_process() and earlier.names:
            logger.info("%d of %d images were done before.", len(earlier.names), len(records))
            self.counts.merge(earlier)
            own = self.save()
            for path in {*self._folder.glob("*.npz")} - {own}:
                path.unlink()
        comm.synchronize()
        done = {*earlier.names}
        return [record for record in records if image_name(record) not in done]

    def save(self) -> Path | None:
        """Save the counts of this rank; return the file."""
        self._saved_at = time.monotonic()
        if self._folder is None:
            return None
        path = self._folder / f"rank{comm.get_rank()}.npz"
        self.counts.save(path)
        return path

    def reset(self) -> None:
        """Forget the images that are not counted yet."""
        self._waiting.clear()

    def process(
        self,
        inputs: Sequence[Record],
        outputs: Sequence[Mapping[Measurement, Prediction]],
    ) -> None:
        """Take in what :class:`dalnet.evaluation.scorer.ImageScorer` makes of some records.

        Raises:
            UsageError: a mask that cannot be used.
            BrokenProcessPool: a CRF process has ended.
        """
        most = _IMAGES_PER_WORKER * self._pool.workers if self._pool else 0
        for record, output in zip(inputs, outputs, strict=True):
            self._start(record, output)
            while len(self._waiting) > most or (self._waiting and self._waiting[0].is_ready()):
                self._finish()
        if time.monotonic() - self._saved_at > _SAVE_EVERY:
            self.save()

    def _start(self, record: Record, output: Mapping[Measurement, Prediction]) -> None:
        """Read the mask, once for all measurements; hand the CRFs to the pool."""
        counts, name, truth = self.counts, image_name(record), None
        if "sem_seg_file_name" in record:
            size = (record["height"], record["width"])
            truth = read_mask(record["sem_seg_file_name"], size, counts.num_classes, counts.ignore)
        pending = _Pending(name, truth, {})
        for measurement, prediction in output.items():
            if isinstance(prediction, ImageCAMs):
                if self._dump:
                    self._dump.write_cams(measurement, name, *prediction)
                prediction = bin_cams(*prediction, counts.thresholds)
            elif isinstance(prediction, CRFTask):
                prediction = self._pool.refine(prediction)
            pending.predictions[measurement] = prediction
        self._waiting.append(pending)

    def _finish(self) -> None:
        """Count the oldest image, waiting for its CRFs."""
        name, truth, found = self._waiting.popleft()
        predictions = {m: p.result() if isinstance(p, Future) else p for m, p in found.items()}
        for measurement, label_map in predictions.items():
            if self._dump and not measurement.has_curve:
                self._dump.write_labels(measurement, name, label_map)
        self.counts.update(name, truth, predictions)

    def evaluate(self) -> Counts | None:
        """Return the counts of all ranks on the main rank; else None."""
        while self._waiting:
            self._finish()
        self.save()
        total, *others = comm.gather(self.counts) or [None]
        for other in others:
            total.merge(other)
        return total

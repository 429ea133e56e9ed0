# SPDX-License-Identifier: Apache-2.0
"""Predict, CRF, count: one image after the other, nothing kept but what is being worked on."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dalnet.data.image_io import read_mask

from .crf_pool import CRFJob, CRFPool, result_of
from .dump import Dump
from .predictions import Prediction, RowPredictor
from .protocol import Row
from .tally import Tally
from .threshold_curve import BinnedCAM, bin_cams

_SAVE_EVERY = 30.0  # seconds


@dataclass
class _Pending:
    """An image that has been through the network; its CRFs may still be at work."""

    name: str
    truth: np.ndarray | None
    labels: dict[Row, np.ndarray] = field(default_factory=dict)
    refined: dict[tuple[Row, ...], "Future[np.ndarray]"] = field(default_factory=dict)
    curves: dict[Row, BinnedCAM] = field(default_factory=dict)

    def is_ready(self) -> bool:
        return all(future.done() for future in self.refined.values())


class Stream:
    """Counts images as they come out of the network; CRFs run beside it.

    Args:
        predictor: computes the rows of an image.
        tally: where they are counted.
        pool: runs the CRFs; may be None if no row has one.
        dump: writes predictions to disk; None for not.
    """

    def __init__(
        self,
        predictor: RowPredictor,
        tally: Tally,
        pool: CRFPool | None,
        dump: Dump | None,
    ) -> None:
        self.predictor = predictor
        self.tally = tally
        self.pool = pool
        self.dump = dump
        self._waiting: deque[_Pending] = deque()

    def run(self, inputs: Iterable[dict[str, Any]], save: Callable[[], None]) -> None:
        """Evaluate ``inputs``, what ``DALNetMapper`` makes at test time.

        Args:
            inputs: one dict an image.
            save: called now and then, and at the end or when interrupted: the tally is then
                complete for the images that it names.

        Raises:
            UsageError: a mask or photograph that cannot be used, or a CRF that cannot be run.
        """
        saved = time.monotonic()
        try:
            for item in inputs:
                self._start(item)
                while self._waiting and self._waiting[0].is_ready():
                    self._finish()
                if time.monotonic() - saved > _SAVE_EVERY:
                    save()
                    saved = time.monotonic()
            while self._waiting:
                self._finish()
        finally:
            save()

    def _start(self, item: dict[str, Any]) -> None:
        """Everything that needs the network; hands the CRFs to the pool."""
        pending = _Pending(image_name(item), self._truth(item))
        jobs: dict[tuple[int, ...], dict[Row, CRFJob]] = {}
        for prediction in self.predictor(item):
            if prediction.crf is not None:
                jobs.setdefault(prediction.crf.values, {})[prediction.row] = prediction.crf
            else:
                pending.labels[prediction.row] = prediction.labels
                if prediction.cams is not None:
                    self._keep_cams(pending, prediction)
        for group in jobs.values():
            pending.refined[tuple(group)] = self.pool.submit(list(group.values()))
        self._waiting.append(pending)

    def _truth(self, item: dict[str, Any]) -> np.ndarray | None:
        if "sem_seg_file_name" not in item:
            return None
        size = (item["height"], item["width"])
        tally = self.tally
        return read_mask(item["sem_seg_file_name"], size, tally.num_classes, tally.ignore)

    def _keep_cams(self, pending: _Pending, prediction: Prediction) -> None:
        if pending.truth is not None:
            pending.curves[prediction.row] = bin_cams(
                prediction.cams, prediction.present, self.tally.thresholds
            )
        if self.dump is not None:
            row, shown = prediction.row, prediction.present
            self.dump.write_cams(row, pending.name, shown, prediction.cams)

    def _finish(self) -> None:
        """Count the oldest image, waiting for its CRFs."""
        pending = self._waiting[0]
        # All results first: an interrupt while waiting must not leave an image half counted.
        labels = dict(pending.labels)
        for rows, future in pending.refined.items():
            labels.update(zip(rows, result_of(future), strict=True))
        for row, label_map in labels.items():
            if self.dump is not None and not row.has_curve:
                self.dump.write_labels(row, pending.name, label_map)
        self.tally.count(pending.name, pending.truth, labels, pending.curves)
        self._waiting.popleft()


def image_name(item: dict[str, Any]) -> str:
    """The name of an image in dumps and in the record of what is done: its file without suffix."""
    return Path(item["file_name"]).stem

# SPDX-License-Identifier: Apache-2.0
"""Turn predictions into counts and results, in the form of Detectron2's evaluators."""

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dalnet.config import with_class_names
from dalnet.data.classes import read_truth
from dalnet.data.labels import warn_of_unlabeled
from dalnet.errors import UsageError
from dalnet.modeling.image_classes import classes_of_labels

from .counts import Counts, bin_cams, labeled_pixels, mean_iou
from .crf import CRFPool, CRFTask
from .dump import Dump, image_name
from .label_check import compare_labels
from .progress import Progress
from .ranks import gather
from .results import evaluated_weights, summarize, write_results
from .scorer import ImageCAMs, Prediction, label_map_of
from .sources import Measurement, model_measurements
from .tags import TagsEvaluator

_IMAGES_PER_WORKER = 2  # one at work and one waiting: enough to keep a CRF process busy
_SAVE_EVERY = 30.0  # seconds

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class _Pending(NamedTuple):
    """An image that has been through the network; its CRFs may still be at work."""

    name: str
    truth: np.ndarray | None
    labels: np.ndarray | None  # see Counts.update
    label_maps: dict[Measurement, np.ndarray]
    refined: "dict[Measurement, Future[np.ndarray]]"


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
        progress: Progress | None = None,
    ) -> None:
        """
        Args:
            counts: where images are counted.
            pool: runs the CRFs; may be None if no measurement has one.
            dump: writes predictions to disk; None for not.
            progress: where the counts are saved now and then, and under which keys images are
                counted; None for nowhere, and under their names.
        """
        self.counts = counts
        self._pool, self._dump, self._progress = pool, dump, progress
        self._keys = progress.keys if progress else {}
        self._waiting: deque[_Pending] = deque()
        self._saved_at = time.monotonic()

    def save(self) -> None:
        """Save the counts of this rank."""
        self._saved_at = time.monotonic()
        if self._progress:
            self._progress.save(self.counts)

    def reset(self) -> None:
        """Forget the images that are not counted yet."""
        self._waiting.clear()

    def process(
        self, inputs: Sequence[Record], outputs: Sequence[Mapping[Measurement, Prediction]]
    ) -> None:
        """Take in what :class:`dalnet.evaluation.scorer.ImageScorer` makes of some records.

        Raises:
            UsageError: a mask that cannot be used.
            BrokenProcessPool: a CRF process has died.
        """
        most = _IMAGES_PER_WORKER * self._pool.workers if self._pool else 0
        for record, output in zip(inputs, outputs, strict=True):
            self._start(record, output)
            while self._waiting and (
                len(self._waiting) > most
                or all(future.done() for future in self._waiting[0].refined.values())
            ):
                self._finish()
        if time.monotonic() - self._saved_at > _SAVE_EVERY:
            self.save()

    def _start(self, record: Record, output: Mapping[Measurement, Prediction]) -> None:
        """Read the mask, once for all measurements; hand the CRFs to the pool."""
        counts, name, truth, labels = self.counts, image_name(record), None, None
        if "sem_seg_file_name" in record:
            truth = self._read_truth(record)
            if "image_labels" in record:
                known = record.get("known_labels")
                labels = compare_labels(record["image_labels"], known, truth)
        pending = _Pending(name, truth, labels, {}, {})
        for measurement, prediction in output.items():
            if isinstance(prediction, CRFTask):
                assert self._pool is not None, "a measurement with CRF needs a pool"
                pending.refined[measurement] = self._pool.refine(prediction)
            elif isinstance(prediction, ImageCAMs):
                if self._dump:
                    self._dump.write_cams(measurement, name, *prediction)
                pending.label_maps[measurement] = bin_cams(*prediction, counts.thresholds)
            else:
                pending.label_maps[measurement] = prediction
        self._waiting.append(pending)

    def _read_truth(self, record: Record) -> np.ndarray:
        try:
            return read_truth(record, self.counts.num_classes, self.counts.ignore)
        except UsageError:
            # Masks come from one program: where one is wrong, those before may be wrong too.
            self.counts = self.counts.empty_copy()
            if self._progress:
                self._progress.discard()
            raise

    def _finish(self) -> None:
        """Count the oldest image, waiting for its CRFs."""
        name, truth, labels, label_maps, refined = self._waiting.popleft()
        label_maps |= {measurement: future.result() for measurement, future in refined.items()}
        for measurement, label_map in label_maps.items():
            if self._dump and not measurement.has_curve:
                self._dump.write_labels(measurement, name, label_map)
        self.counts.update(self._keys.get(name, name), truth, label_maps, labels)

    def evaluate(self) -> Counts | None:
        """Return the counts of all ranks on the main rank; else None."""
        while self._waiting:
            self._finish()
        self.save()
        ranks = gather(self.counts)
        total = self.counts.empty_copy()
        for counts in ranks:
            total.merge(counts)
        return total if ranks else None


class TableEvaluator(DatasetEvaluator):
    """All sources of a model on one pass over a split: a table, a file, Detectron2's metrics."""

    def __init__(self, cfg: CfgNode, dataset_name: str, measurements: list[Measurement]) -> None:
        """Measure what a model of ``cfg`` returns on a registered split with masks."""
        names = with_class_names(cfg).MODEL.CLASS_NAMES
        self.class_names = list(names or MetadataCatalog.get(dataset_name).stuff_classes)
        threshold, ignore = cfg.MODEL.CAM.BACKGROUND_THRESHOLD, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self._counts = Counts(measurements, len(self.class_names), threshold, ignore)
        self.cfg = cfg
        self.dataset_name = dataset_name
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self._evaluator = CountsEvaluator(self._counts.empty_copy())

    def process(self, inputs: Sequence[Record], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Take in what the model returns; a source that an image lacks is not counted there.

        Raises:
            UsageError: a mask is unreadable or does not fit.
        """
        predictions = []
        for record, output in zip(inputs, outputs, strict=True):
            classes = classes_of_labels(record.get("image_labels"))
            predictions.append(
                {
                    one: ImageCAMs(output[one.source][list(classes)], classes)
                    if one.kind == "cam"
                    else label_map_of(output[one.source])
                    for one in self._counts.measurements
                    if one.source in output
                }
            )
        self._evaluator.process(inputs, predictions)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Log the table and write ``OUTPUT_DIR/evaluation/<split>/results.json``.

        Returns:
            On the main rank ``{source: {"mIoU": ..., "IoU-<class>": ..., ...}}`` in percent, see
            :func:`detectron2_metrics`; else None.
        """
        counts = self._evaluator.evaluate()
        if counts is None:
            return None
        split, names = self.dataset_name, self.class_names
        result = summarize(self.cfg, split, names, counts, *evaluated_weights(self.cfg))
        write_results(result, Path(self.cfg.OUTPUT_DIR, "evaluation", split))
        return {
            one.source: detectron2_metrics(split, names, counts.matrix(one))
            for one in counts.measurements
        }


def detectron2_metrics(
    dataset_name: str, class_names: Sequence[str], matrix: np.ndarray
) -> dict[str, float]:
    """Return Detectron2's numbers, in percent, of a split's confusion matrix ``[K, K + 1]``.

    Among them ``mIoU``, the mean over the classes that the truth shows, ``IoU-<class>`` and
    ``pACC``; besides ``labeled``, see :func:`dalnet.evaluation.counts.labeled_pixels`.
    """
    evaluator = SemSegEvaluator(dataset_name, distributed=False)
    evaluator._class_names, evaluator._num_classes = list(class_names), len(class_names)
    # It would log a second mIoU: that of Detectron2 0.5 is lower where a class is absent.
    evaluator._logger = logging.Logger(f"{__name__}.quiet", logging.WARNING)
    # Later versions look at boundaries too, of which a matrix knows nothing.
    evaluator._compute_boundary_iou = False
    evaluator.reset()
    # Detectron2's is [prediction, truth]; its last column, of ignored truths, is never read.
    evaluator._conf_matrix[:, :-1] = matrix.T
    values = evaluator.evaluate()["sem_seg"]
    return values | {"mIoU": mean_iou(matrix), "labeled": labeled_pixels(matrix)}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> TableEvaluator | TagsEvaluator:
    """Return the evaluator of a split: of its masks, or of its tags if no image has a mask.

    Where there are masks, all sources of the system that ``cfg`` describes are measured. CAMs and
    pseudo labels, if ``TEST.EVAL_CAM``, count the images with image-level labels only; where no
    image has any, they are left out. A warning tells how many lack them.

    Raises:
        UsageError: the split has neither masks nor tags that can be measured, or masks of some
            images only.
    """
    records = DatasetCatalog.get(dataset_name)
    sources = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).sources
    masked = ["sem_seg_file_name" in record for record in records]
    tagged = any(record["image_labels"] for record in records)
    by_tags = not any(masked) and tagged and "cam" in sources
    if not by_tags and not all(masked):
        hint = "choose another split to evaluate on"
        raise UsageError("not every image has a mask", where=dataset_name, hint=hint)
    if not hasattr(MetadataCatalog.get(dataset_name), "stuff_classes"):
        hint = "register them, background first"
        raise UsageError("its metadata has no stuff_classes", where=dataset_name, hint=hint)
    if by_tags:
        return TagsEvaluator(cfg, dataset_name)
    measurements = model_measurements(cfg, sources)
    if cfg.TEST.EVAL_CAM and any(one.needs_labels for one in measurements):
        warn_of_unlabeled(dataset_name, records)
    if not cfg.TEST.EVAL_CAM or not tagged:
        measurements = [one for one in measurements if not one.needs_labels]
    return TableEvaluator(cfg, dataset_name, measurements)

# SPDX-License-Identifier: Apache-2.0
"""Training's evaluation: what a model returns, measured by Detectron2's ``SemSegEvaluator``."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor

from dalnet.checkpoint import checkpoint_hash
from dalnet.data.labels import warn_of_unlabeled
from dalnet.errors import UsageError

from .counting import CountsEvaluator
from .counts import Counts, labeled_pixels
from .results import summarize, write_results
from .scorer import ImageCAMs, label_map_of
from .sources import Measurement, model_measurements


class TableEvaluator(DatasetEvaluator):
    """All sources of a model on one pass over a split: a table, a file, Detectron2's metrics."""

    def __init__(self, cfg: CfgNode, dataset_name: str, measurements: list[Measurement]) -> None:
        """Measure what a model of ``cfg`` returns on a registered split with masks."""
        self.cfg = cfg
        self.dataset_name = dataset_name
        self.measurements = measurements
        self._evaluator = MatrixEvaluator(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        num_classes = len(MetadataCatalog.get(self.dataset_name).stuff_classes)
        threshold = self.cfg.MODEL.CAM.BACKGROUND_THRESHOLD
        ignore = self.cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self._counting = CountsEvaluator(Counts(self.measurements, num_classes, threshold, ignore))

    def process(
        self, inputs: Sequence[dict[str, Any]], outputs: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Take in what the model returns; a source that an image lacks is not counted there.

        Raises:
            UsageError: a mask is unreadable or does not fit.
        """
        predictions = []
        for record, output in zip(inputs, outputs, strict=True):
            labels = record.get("image_labels")
            classes = () if labels is None else tuple(labels.nonzero().flatten().tolist())
            predictions.append(
                {
                    one: ImageCAMs(output[one.source][list(classes)], classes)
                    if one.kind == "cam"
                    else label_map_of(output[one.source])
                    for one in self.measurements
                    if one.source in output
                }
            )
        self._counting.process(inputs, predictions)

    def evaluate(self) -> OrderedDict | None:
        """Log the table and write ``OUTPUT_DIR/evaluation/<split>/results.json``.

        Returns:
            On the main rank ``{source: {"mIoU": ..., "IoU-<class>": ..., ...}}`` in percent, see
            :meth:`MatrixEvaluator.evaluate_matrix`; else None.
        """
        counts = self._counting.evaluate()
        if counts is None:
            return None
        result = summarize(self.cfg, self.dataset_name, counts, *_evaluated_weights(self.cfg))
        write_results(result, Path(self.cfg.OUTPUT_DIR, "evaluation", self.dataset_name))
        return OrderedDict(
            (one.source, self._evaluator.evaluate_matrix(counts.matrix(one)))
            for one in self.measurements
        )


class MatrixEvaluator(SemSegEvaluator):
    """Detectron2's figures of confusion matrices that are counted already."""

    def __init__(self, dataset_name: str) -> None:
        """Take the classes of a registered split with masks."""
        super().__init__(dataset_name, distributed=False)
        # It would log a second mIoU: that of Detectron2 0.5 is lower where a class is absent.
        self._logger = logging.Logger(f"{__name__}.quiet", logging.WARNING)
        # Later versions look at boundaries too, of which a matrix knows nothing.
        self._compute_boundary_iou = False

    def evaluate_matrix(self, matrix: np.ndarray) -> dict[str, float]:
        """Return Detectron2's figures, in percent, of a matrix ``[K, K + 1]``.

        Among them ``mIoU``, the mean over the classes that the truth shows, ``IoU-<class>`` and
        ``pACC``; besides ``labeled``, see :func:`dalnet.evaluation.counts.labeled_pixels`.
        """
        self.reset()
        # Detectron2's is [prediction, truth]; its last column, of ignored truths, is never read.
        self._conf_matrix[:, :-1] = matrix.T
        values = self.evaluate()["sem_seg"]
        values["mIoU"] = float(np.nanmean([values[f"IoU-{c}"] for c in self._class_names]))
        values["labeled"] = labeled_pixels(matrix)
        return values


def _evaluated_weights(cfg: CfgNode) -> tuple[str | None, int | None]:
    """Return the SHA-256 of the checkpoint and its iterations, each None where not certain."""
    last = Path(cfg.OUTPUT_DIR, "last_checkpoint")
    newest = str(last.with_name(last.read_text().strip())) if last.is_file() else ""
    try:
        # Detectron2 counts from 0, but has counted on when it evaluates after the training.
        iteration = min(get_event_storage().iter + 1, cfg.SOLVER.MAX_ITER)
    except AssertionError:  # not in a training
        iteration, named = None, {cfg.MODEL.WEIGHTS, newest} - {""}
    else:
        is_last = iteration == cfg.SOLVER.MAX_ITER
        saved = "model_final.pth" if is_last else f"model_{iteration - 1:07d}.pth"
        named = {newest} if Path(newest).name == saved else set()
    return checkpoint_hash(*named) if len(named) == 1 else None, iteration


def build_evaluator(cfg: CfgNode, dataset_name: str) -> TableEvaluator:
    """Return the evaluator of all sources of the system that ``cfg`` describes.

    CAMs and pseudo labels, if ``TEST.EVAL_CAM``, count the images with image-level labels only;
    where no image has any, they are left out. A warning tells how many lack them.

    Raises:
        UsageError: the split has no masks.
    """
    records = DatasetCatalog.get(dataset_name)
    if any("sem_seg_file_name" not in record for record in records):
        raise UsageError(
            f"{dataset_name} has no masks, so nothing can be measured on it; choose another split "
            "in DATASETS.TEST."
        )
    if not hasattr(MetadataCatalog.get(dataset_name), "stuff_classes"):
        raise UsageError(f"{dataset_name} has no stuff_classes in its metadata; register them.")
    sources = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).sources
    measurements = model_measurements(cfg, sources)
    if cfg.TEST.EVAL_CAM and any(one.needs_labels for one in measurements):
        warn_of_unlabeled(dataset_name, records)
    if not cfg.TEST.EVAL_CAM or not any(record["image_labels"] for record in records):
        measurements = [one for one in measurements if not one.needs_labels]
    return TableEvaluator(cfg, dataset_name, measurements)

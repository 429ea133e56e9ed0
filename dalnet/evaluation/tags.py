# SPDX-License-Identifier: Apache-2.0
"""Measure image classifiers against the tags of images by their average precision."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dalnet.config import with_class_names
from dalnet.data.classes import number_as_model
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.numbers import finite_or_none

from .counts import Counts
from .ranks import gather
from .results import evaluated_weights, summarize, write_results

KEY = "tags"  # of the results

logger = logging.getLogger(__name__)
Record = dict[str, Any]


def average_precision(scores: np.ndarray, shown: np.ndarray) -> float:
    """Return the average precision of a ranking: the sum over n of (R_n - R_(n-1)) P_n.

    P_n and R_n are precision and recall of the images whose score is at least the n-th largest one;
    images of equal scores are found together. Nothing is interpolated, as in scikit-learn's
    function of this name.

    Args:
        scores: ``[N]``, larger for images that are rather taken to show the class.
        shown: boolean ``[N]``, whether they do.

    Returns:
        0..1; nan if no image shows the class.
    """
    if not shown.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # [N], the last one of its score
    found = np.cumsum(shown[order])[last]
    taken = np.arange(1, len(scores) + 1)[last]
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / taken).sum())


class ImageClassifier(nn.Module):
    """Returns a model's image logits for the test mapper's dicts, in place of its maps."""

    def __init__(self, model: nn.Module) -> None:
        """Take a model, which several processes may have wrapped."""
        super().__init__()
        unwrapped = model.module if isinstance(model, DistributedDataParallel) else model
        assert isinstance(unwrapped, WeakSegmentor)
        self.model = unwrapped
        # Detectron2 restores this mode, in the model too, after it has evaluated.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Record]) -> list[Tensor]:
        """Return logits ``[C]`` of each image, at one scale."""
        model = self.model
        return [
            model.image_logits(model.infer_record(record).features())[0]
            for record in batched_inputs
        ]


class TagsEvaluator(DatasetEvaluator):
    """Compares image logits with the tags of a split: the average precision of each class.

    An image counts for the classes of which it is known whether it shows them.
    """

    def __init__(self, cfg: CfgNode, split: str) -> None:
        """Measure on a registered split with image-level labels."""
        self.cfg, self.split = cfg, split
        self.class_names = list(with_class_names(cfg).MODEL.CLASS_NAMES)
        records = number_as_model(cfg, split, DatasetCatalog.get(split))
        self._records: dict[Any, Record] = {record["image_id"]: record for record in records}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._logits: dict[Any, np.ndarray] = {}

    def process(self, inputs: Sequence[Record], outputs: Sequence[Tensor]) -> None:
        """Take in logits ``[C]`` of some images."""
        for record, logits in zip(inputs, outputs, strict=True):
            self._logits[record["image_id"]] = logits.float().cpu().numpy()

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Log the table and write ``OUTPUT_DIR/evaluation/<split>/results.json``.

        Returns:
            On the main rank ``{"tags": {"mAP": ..., "AP-<class>": ...}}`` in percent; else None.
        """
        ranks = gather(self._logits)
        if not ranks:
            return None
        logits = {image: found for rank in ranks for image, found in rank.items()}
        measured = measure_tags(logits, self._records, self.class_names[1:])
        cam, ignore = self.cfg.MODEL.CAM, self.cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        nothing = Counts([], len(self.class_names), cam.BACKGROUND_THRESHOLD, ignore)
        weights = evaluated_weights(self.cfg)
        result = summarize(self.cfg, self.split, self.class_names, nothing, *weights)
        result |= {"num_images": len(logits), KEY: measured}
        write_results(result, Path(self.cfg.OUTPUT_DIR, "evaluation", self.split))
        found = {f"AP-{k}": v["average_precision"] for k, v in measured["classes"].items()}
        values = {"mAP": measured["mean_average_precision"], **found}
        return {KEY: {k: float("nan") if v is None else v for k, v in values.items()}}


def measure_tags(
    logits: Mapping[Any, np.ndarray], records: Mapping[Any, Record], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the average precision of each class, in percent, and their mean.

    Args:
        logits: ``[C]`` of each image by its id.
        records: of the images, by id.
        classes: the C names.

    Returns:
        ``mean_average_precision``, over the classes that an image shows, None if there are none,
        and ``classes``: by name ``average_precision`` (None if no image shows it), ``shown`` (the
        number of images that show it) and ``known`` (of those of which that is known).
    """
    images = [image for image in logits if image in records]
    scores = np.array([logits[image] for image in images]).reshape(len(images), len(classes))
    shown = np.zeros(scores.shape, bool)
    known = np.ones(scores.shape, bool)
    for row, image in enumerate(images):
        shown[row, records[image]["image_labels"]] = True
        known[row, records[image].get("unknown_labels", [])] = False
    found: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(classes):
        rows = known[:, c]
        precision = average_precision(scores[rows, c], shown[rows, c])
        found[name] = {
            "average_precision": finite_or_none(100 * precision),
            "shown": int(shown[rows, c].sum()),
            "known": int(rows.sum()),
        }
    values = [v["average_precision"] for v in found.values() if v["average_precision"] is not None]
    mean = float(np.mean(values)) if values else None
    return {"mean_average_precision": mean, "classes": found}

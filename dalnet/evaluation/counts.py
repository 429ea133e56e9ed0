# SPDX-License-Identifier: Apache-2.0
"""Count pixels: confusion matrices, CAMs at every threshold, and what follows from them.

A confusion matrix is int64 ``[K, K + 1]`` for K classes with background: row = truth, column =
prediction; the last column holds pixels that a label map ignores. Pixels whose truth is ignored
are in no row. As in Detectron2's ``SemSegEvaluator``, a pixel counts for the IoU only where truth
and prediction both name a class.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from dalnet.io import atomic_write

from .sources import Measurement


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int = 255
) -> np.ndarray:
    """Return the confusion matrix of one image.

    Args:
        truth, prediction: integers ``[H, W]``, 0..K-1 or ``ignore``.
        num_classes: K, background included.
        ignore: label of pixels that count for nothing.
    """
    columns = np.where(prediction == ignore, num_classes, prediction)
    return _count_pairs(truth, columns, (num_classes, num_classes + 1), ignore)


def _count_pairs(
    truth: np.ndarray, values: np.ndarray, shape: tuple[int, ...], ignore: int
) -> np.ndarray:
    """Count pixels by truth and value, two integer arrays ``[H, W]``: int64 of ``shape``."""
    known = truth != ignore
    cells = truth[known].astype(np.int64) * shape[1] + values[known]
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def class_ious(matrix: np.ndarray) -> np.ndarray:
    """Return each class's IoU in percent, float64 ``[K]``; nan for classes not in the truth."""
    counts = matrix[:, :-1]
    intersection = np.diag(counts).astype(np.float64)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ious = 100 * intersection / (truth + predicted - intersection)
    return np.where(truth > 0, ious, np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Return the mIoU in percent over the classes that the truth shows; nan if there are none."""
    ious = class_ious(matrix)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Return the percentage of correct pixels, of those not ignored; nan if there are none."""
    counts = matrix[:, :-1]
    return 100.0 * float(np.trace(counts) / counts.sum()) if counts.any() else float("nan")


def labeled_pixels(matrix: np.ndarray) -> float:
    """Return the percentage of pixels with a label in the prediction, of those with a truth.

    nan if there are none.
    """
    return 100.0 * float(1 - matrix[:, -1].sum() / matrix.sum()) if matrix.any() else float("nan")


def thresholds_with(value: float) -> np.ndarray:
    """Return 0, 0.01, ..., 0.99 and ``value``, sorted, float32."""
    return np.unique(np.append(np.arange(100) * 0.01, value).astype(np.float32))


def bin_cams(cams: Tensor, image_classes: Sequence[int], thresholds: np.ndarray) -> np.ndarray:
    """Return one number for each pixel, from which its label follows at every threshold.

    Args:
        cams: ``[P, H, W]`` in 0..1, of the image's classes.
        image_classes: these classes, 0..C-1; may be empty.
        thresholds: float32 ``[T]``, ascending.

    Returns:
        int32 ``[H, W]``: (T + 1) times the class of the largest CAM, plus how many of the
        thresholds its value exceeds.
    """
    if not len(cams):
        return np.zeros(cams.shape[1:], np.int32)
    value, index = cams.max(dim=0)
    classes = torch.tensor(image_classes, device=index.device)[index]
    edges = torch.from_numpy(thresholds).to(value.device)
    # right=False counts the thresholds below the value: a pixel at the threshold is background.
    bins = torch.bucketize(value.float(), edges, right=False)
    return (classes * (len(thresholds) + 1) + bins).to(torch.int32).cpu().numpy()


class Counts:
    """Adds up pixel counts of all measurements over the images that are finished.

    Attributes:
        measurements: sources under protocols.
        num_classes: K, background included.
        threshold: of CAMs, in 0..1.
        thresholds: float32 ``[T]``, ascending, of the CAMs' curves; ``threshold`` is one of them.
        ignore: label of pixels that count for nothing.
        names: of the finished images.
    """

    def __init__(
        self,
        measurements: Sequence[Measurement],
        num_classes: int,
        threshold: float,
        ignore: int = 255,
    ) -> None:
        """Start from zero; the arguments are the attributes of these names."""
        self.measurements = tuple(measurements)
        self.num_classes = num_classes
        self.threshold = threshold
        self.thresholds = thresholds_with(threshold)
        self.ignore = ignore
        self.names: list[str] = []
        matrix, bins = num_classes + 1, (num_classes - 1) * (len(self.thresholds) + 1)
        self._arrays = {
            "images": np.zeros(2, np.int64),
            "labels": np.zeros((num_classes - 1, 4), np.int64),
        }
        for one in self.measurements:
            shape = (num_classes, bins if one.has_curve else matrix)
            self._arrays[str(one)] = np.zeros(shape, np.int64)

    @property
    def num_scored(self) -> int:
        """How many of the finished images have a mask."""
        return int(self._arrays["images"][0])

    @property
    def num_labeled(self) -> int:
        """How many of the images with a mask also have the labels that CAMs need."""
        return int(self._arrays["images"][1])

    @property
    def labels(self) -> np.ndarray:
        """Sum of :func:`dalnet.evaluation.label_check.compare_labels` over these images."""
        return self._arrays["labels"]

    def empty_copy(self) -> "Counts":
        """Return counts of the same measurements, at zero."""
        return Counts(self.measurements, self.num_classes, self.threshold, self.ignore)

    def update(
        self,
        name: str,
        truth: np.ndarray | None,
        predictions: Mapping[Measurement, np.ndarray],
        labels: np.ndarray | None = None,
    ) -> None:
        """Count one image.

        Args:
            name: of the image.
            truth: integers ``[H, W]``; None for an image without a mask, of which only the name is
                kept.
            predictions: by measurement, as far as the image has them: the result of
                :func:`bin_cams` where the measurement has a curve, else a label map, integers
                ``[H, W]``.
            labels: the result of :func:`dalnet.evaluation.label_check.compare_labels`, ``[C, 4]``;
                None for an image without labels.
        """
        if truth is not None:
            # First all are counted, then added, so that an interrupt leaves no image half counted.
            is_labeled = any(one.needs_labels for one in predictions)
            counted = {"images": np.array([1, is_labeled])}
            if labels is not None:
                counted["labels"] = labels
            for one, prediction in predictions.items():
                if one.has_curve:
                    shape = self._arrays[str(one)].shape
                    counted[str(one)] = _count_pairs(truth, prediction, shape, self.ignore)
                else:
                    matrix = confusion_matrix(truth, prediction, self.num_classes, self.ignore)
                    counted[str(one)] = matrix
            for key, counts in counted.items():
                self._arrays[key] += counts
        self.names.append(name)

    def merge(self, other: "Counts") -> None:
        """Add counts of the same measurements over other images."""
        for key, counts in other._arrays.items():
            self._arrays[key] += counts
        self.names += other.names

    def matrix(self, measurement: Measurement, index: int | None = None) -> np.ndarray:
        """Return the confusion matrix; of CAMs at ``thresholds[index]``, else at ``threshold``."""
        counts = self._arrays[str(measurement)]
        if not measurement.has_curve:
            return counts
        if index is None:
            index = int(np.searchsorted(self.thresholds, np.float32(self.threshold)))
        # [K, C, T + 1], by truth, class of the largest CAM and number of thresholds it exceeds.
        histogram = counts.reshape(self.num_classes, -1, len(self.thresholds) + 1)
        foreground = histogram[:, :, index + 1 :].sum(axis=2)
        background = histogram[:, :, : index + 1].sum(axis=(1, 2))
        return np.column_stack([background, foreground, np.zeros_like(background)])

    def miou_curve(self, measurement: Measurement) -> np.ndarray:
        """Return the mIoU of CAMs in percent at each of ``thresholds``, float64 ``[T]``."""
        indices = range(len(self.thresholds))
        return np.array([mean_iou(self.matrix(measurement, index)) for index in indices])

    def save(self, path: Path) -> None:
        """Write everything to ``path``, a safetensors file."""
        with atomic_write(path) as unfinished:
            save_file(self._arrays, unfinished, {"names": json.dumps(self.names)})

    def load(self, path: Path) -> "Counts | None":
        """Return what was saved for the same measurements, or None; ``self`` stays as it is."""
        found = self.empty_copy()
        try:
            with safe_open(path, framework="numpy") as file:
                found.names = json.loads((file.metadata() or {})["names"])
                found._arrays = {key: file.get_tensor(key) for key in found._arrays}
        except (OSError, KeyError, ValueError, TypeError, RecursionError, SafetensorError):
            return None
        fits = all(
            (counts.shape, counts.dtype) == (self._arrays[key].shape, self._arrays[key].dtype)
            for key, counts in found._arrays.items()
        )
        are_names = isinstance(found.names, list) and all(isinstance(n, str) for n in found.names)
        return found if fits and are_names else None

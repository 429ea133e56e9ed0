# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices and what follows from them, as Detectron2's ``SemSegEvaluator`` counts.

A matrix is int64 [K, K + 1] for K classes with background: row = truth, column = prediction; the
last column holds pixels that a label map leaves out (ignored). Pixels whose truth is ignored are
in no row. Prediction and truth of a pixel count for the IoU only where both name a class.
"""

import numpy as np


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int = 255
) -> np.ndarray:
    """Count the pixels of one image.

    Args:
        truth: integers [H, W], 0..K-1 or ``ignore``.
        prediction: integers [H, W], 0..K-1 or ``ignore``.
        num_classes: K, background included.
        ignore: label of pixels that count for nothing.

    Returns:
        int64 [K, K + 1].
    """
    known = truth != ignore
    rows = truth[known].astype(np.int64)
    columns = np.minimum(prediction[known], num_classes).astype(np.int64)
    columns[prediction[known] == ignore] = num_classes
    cells = np.bincount(
        rows * (num_classes + 1) + columns, minlength=num_classes * (num_classes + 1)
    )
    return cells.reshape(num_classes, num_classes + 1)


def class_ious(matrix: np.ndarray) -> np.ndarray:
    """IoU per class in percent, float64 [K]; nan where the truth never shows the class."""
    counts = matrix[:, :-1]
    inside = np.diag(counts).astype(np.float64)
    truth, predicted = counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ious = 100 * inside / (truth + predicted - inside)
    return np.where(truth > 0, ious, np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """mIoU in percent over the classes that the truth shows; nan if there are none."""
    ious = class_ious(matrix)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else float("nan")


def labelled_share(matrix: np.ndarray) -> float:
    """Percent of the pixels with a truth that the prediction does not ignore."""
    return 100.0 * float(1 - matrix[:, -1].sum() / max(matrix.sum(), 1))

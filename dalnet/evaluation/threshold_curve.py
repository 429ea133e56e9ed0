# SPDX-License-Identifier: Apache-2.0
"""CAMs at every threshold in one pass: a histogram from which each confusion matrix follows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .confusion import mean_iou

STEP = 0.01


def thresholds_with(value: float) -> np.ndarray:
    """0, 0.01, ..., 0.99 and ``value``, sorted, float32."""
    steps = np.arange(round(1 / STEP)) * STEP
    return np.unique(np.append(steps, value).astype(np.float32))


@dataclass(frozen=True)
class BinnedCAM:
    """What one image's CAMs say at all thresholds.

    Attributes:
        classes: int16 [H, W], index 0..C-1 of the largest CAM.
        bins: int16 [H, W], how many of the thresholds its value exceeds.
    """

    classes: np.ndarray
    bins: np.ndarray


def bin_cams(cams: Tensor, present: Sequence[int], thresholds: np.ndarray) -> BinnedCAM:
    """Reduce CAMs to class and bin per pixel.

    Args:
        cams: [P, H, W] in 0..1, of the present classes.
        present: their indices 0..C-1; may be empty.
        thresholds: float32 [T], ascending.
    """
    if not present:
        nothing = np.zeros(cams.shape[1:], np.int16)
        return BinnedCAM(nothing, nothing)
    value, index = cams.max(dim=0)
    index = torch.tensor(present, device=index.device)[index]
    edges = torch.from_numpy(thresholds).to(value.device)
    # right=False: the number of thresholds below the value; a tie is background's.
    bins = torch.bucketize(value.float(), edges, right=False)
    return BinnedCAM(*(values.to(torch.int16).cpu().numpy() for values in (index, bins)))


def count_binned(
    truth: np.ndarray, binned: BinnedCAM, num_classes: int, num_thresholds: int, ignore: int = 255
) -> np.ndarray:
    """Histogram of one image: int64 [K, C, T + 1] over truth, class of the CAM and bin.

    Args:
        truth: integers [H, W], 0..K-1 or ``ignore``.
        binned: of the same size.
        num_classes: K = C + 1.
        num_thresholds: T.
        ignore: truth of pixels that count for nothing.
    """
    shape = (num_classes, num_classes - 1, num_thresholds + 1)
    known = truth != ignore
    cells = (truth[known], binned.classes[known], binned.bins[known])
    flat = np.ravel_multi_index(tuple(c.astype(np.int64) for c in cells), shape)
    return np.bincount(flat, minlength=np.prod(shape)).reshape(shape)


def matrix_at(histogram: np.ndarray, index: int) -> np.ndarray:
    """The confusion matrix int64 [K, K + 1] at the threshold of number ``index``."""
    foreground = histogram[:, :, index + 1 :].sum(axis=2)
    background = histogram[:, :, : index + 1].sum(axis=(1, 2))
    ignored = np.zeros_like(background)
    return np.concatenate([background[:, None], foreground, ignored[:, None]], axis=1)


def miou_curve(histogram: np.ndarray) -> np.ndarray:
    """mIoU in percent at every threshold, float64 [T]."""
    return np.array([mean_iou(matrix_at(histogram, i)) for i in range(histogram.shape[2] - 1)])

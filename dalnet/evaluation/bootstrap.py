# SPDX-License-Identifier: Apache-2.0
"""Whether one prediction of a split is better than another, by resampling its images."""

from dataclasses import dataclass

import numpy as np

from .counts import mean_iou

_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Difference:
    """mIoU of the first prediction minus that of the second, in percent.

    Attributes:
        value: on the split itself.
        low, high: the middle 95 % of the resampled splits.
        better: fraction of the resampled splits on which the first is better.

    Resampled splits without a pixel that counts have no mIoU and are left out.
    """

    value: float
    low: float
    high: float
    better: float


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, rounds: int = 2000, seed: int = 0
) -> Difference:
    """Resample the images of a split with replacement, the same ones for both predictions.

    Images differ much in difficulty, and both predictions meet the same ones: the difference on
    each resampled split therefore spreads less than either mIoU. It says how far the difference
    depends on the choice of images; how far it depends on the seed of the training, only further
    trainings say (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Args:
        first, second: confusion matrices of each image, integers ``[N, K, K + 1]``, see
            :func:`dalnet.evaluation.counts.confusion_matrix`; image i is the same in both.
        rounds: resampled splits.
        seed: of the draws.

    Raises:
        ValueError: matrices of other shapes, no image, or no pixel that counts.
    """
    if first.shape != second.shape or first.ndim != 3 or not len(first):
        raise ValueError(f"matrices of one split are needed, not {first.shape}, {second.shape}")
    count = len(first)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=rounds)
    differences = _miou(draws, first) - _miou(draws, second)
    once = np.ones((1, count), dtype=np.int64)
    value = float((_miou(once, first) - _miou(once, second))[0])
    if not np.isfinite(value):
        raise ValueError("no pixel has a label in the truth and in both predictions")
    differences = differences[np.isfinite(differences)]
    low, high = np.percentile(differences, _INTERVAL)
    return Difference(value, float(low), float(high), float((differences > 0).mean()))


def _miou(draws: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return the mIoU ``[R]`` of splits in which image i comes ``draws[:, i]`` times."""
    sums = draws @ matrices.reshape(len(matrices), -1).astype(np.int64)
    return np.array([mean_iou(one.reshape(matrices.shape[1:])) for one in sums])

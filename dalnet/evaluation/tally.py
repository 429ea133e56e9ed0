# SPDX-License-Identifier: Apache-2.0
"""What has been counted so far, and how an interrupted evaluation finds it again."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dalnet.files import complete_or_absent

from .confusion import confusion_matrix
from .protocol import Row
from .threshold_curve import BinnedCAM, count_binned

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Counts over the images that are finished.

    Attributes:
        rows: what is counted.
        num_classes: K, background included.
        thresholds: float32 [T], ascending, of the CAM rows.
        ignore: label of pixels that count for nothing.
        matrices: by ``str(row)``, int64 [K, K + 1].
        histograms: by ``str(row)``, int64 [K, K - 1, T + 1], of the CAM rows without CRF.
        done: names of the finished images.
        scored: how many of them have a mask.
    """

    rows: Sequence[Row]
    num_classes: int
    thresholds: np.ndarray
    ignore: int = 255
    matrices: dict[str, np.ndarray] = field(init=False)
    histograms: dict[str, np.ndarray] = field(init=False)
    done: list[str] = field(init=False, default_factory=list)
    scored: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        k, t = self.num_classes, len(self.thresholds)
        curves = [str(row) for row in self.rows if row.has_curve]
        self.matrices = {str(row): np.zeros((k, k + 1), np.int64) for row in self.rows}
        self.histograms = {name: np.zeros((k, k - 1, t + 1), np.int64) for name in curves}

    def count(
        self,
        name: str,
        truth: np.ndarray | None,
        labels: Mapping[Row, np.ndarray],
        curves: Mapping[Row, BinnedCAM],
    ) -> None:
        """Count all rows of one image.

        Args:
            name: of the image.
            truth: integers [H, W]; None for an image without a mask, which is only noted.
            labels: label map, integers [H, W], of every row that the image has.
            curves: CAMs of those rows that have a curve; nothing without a mask.
        """
        if truth is not None:
            self.scored += 1
            for row, prediction in labels.items():
                matrix = confusion_matrix(truth, prediction, self.num_classes, self.ignore)
                self.matrices[str(row)] += matrix
            for row, binned in curves.items():
                self.histograms[str(row)] += count_binned(
                    truth, binned, self.num_classes, len(self.thresholds), self.ignore
                )
        self.done.append(name)

    def add(self, other: "Tally") -> None:
        """Add the counts over other images."""
        for mine, theirs in (
            (self.matrices, other.matrices),
            (self.histograms, other.histograms),
        ):
            for name, counts in theirs.items():
                mine[name] += counts
        self.done += other.done
        self.scored += other.scored

    def save(self, path: Path) -> None:
        """Write everything to ``path``, an ``.npz``."""
        arrays = {f"matrix:{name}": counts for name, counts in self.matrices.items()}
        arrays |= {f"histogram:{name}": counts for name, counts in self.histograms.items()}
        with complete_or_absent(path) as unfinished, unfinished.open("wb") as stream:
            done = np.array(self.done, dtype=np.str_)
            np.savez_compressed(stream, done=done, scored=self.scored, **arrays)

    def _restore(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            for name in self.matrices:
                self.matrices[name] = arrays[f"matrix:{name}"]
            for name in self.histograms:
                self.histograms[name] = arrays[f"histogram:{name}"]
            self.done = arrays["done"].tolist()
            self.scored = int(arrays["scored"])

    def empty_copy(self) -> "Tally":
        """Return a tally of the same rows with nothing counted."""
        return Tally(self.rows, self.num_classes, self.thresholds, self.ignore)


def load_tallies(empty: Tally, files: Iterable[Path]) -> Tally:
    """Add up what earlier runs have saved; a file whose images are all in another adds nothing.

    Unreadable files are named in the log and left out: their images are evaluated again.
    """
    total, known = empty.empty_copy(), set()
    for path in sorted(files):
        one = empty.empty_copy()
        try:
            one._restore(path)
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            logger.warning("%s cannot be read (%s): its images are evaluated again.", path, error)
            continue
        # After a crash between merging and deleting, a file may already be part of another.
        if not known.intersection(one.done):
            total.add(one)
            known.update(one.done)
    return total

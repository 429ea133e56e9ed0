# SPDX-License-Identifier: Apache-2.0
"""Predictions on disk: CAMs as arrays, label maps as palette PNGs in the layout of VOC."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dalnet.data.image_io import write_mask
from dalnet.files import complete_or_absent

from .protocol import Row

LABEL_FOLDER, CAM_FOLDER = "SegmentationClass", "CAM"


class Dump:
    """Writes one folder per row: ``<root>/<source>/<protocol>/``.

    In it ``SegmentationClass/<image>.png``, palette PNGs of class indices (255 ignored), or, for
    CAMs without CRF, ``CAM/<image>.npz`` with ``classes`` int64 [P], the present classes 0..C-1,
    and ``cams`` float16 [P, H, W] in 0..1; and ``ImageSets/Segmentation/<split>.txt``.
    """

    def __init__(self, root: Path) -> None:
        """Write below ``root``; folders are made as needed."""
        self.root = root

    def write_labels(self, row: Row, name: str, labels: np.ndarray) -> None:
        """Write a label map, uint8 [H, W]."""
        write_mask(self.folder(row) / LABEL_FOLDER / f"{name}.png", labels)

    def write_cams(self, row: Row, name: str, classes: Sequence[int], cams: Tensor) -> None:
        """Write the CAMs [P, H, W] in 0..1 of the P present ``classes``, 0..C-1."""
        path = self.folder(row) / CAM_FOLDER / f"{name}.npz"
        arrays = {
            "classes": np.asarray(classes, dtype=np.int64),
            "cams": cams.half().cpu().numpy(),
        }
        with complete_or_absent(path) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    def write_list(self, row: Row, split: str, names: Iterable[str]) -> None:
        """Write the list of the images of a row, so that its folder is a VOC-layout tree."""
        text = "".join(f"{name}\n" for name in sorted(names))
        path = self.folder(row) / "ImageSets" / "Segmentation" / f"{split}.txt"
        with complete_or_absent(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def folder(self, row: Row) -> Path:
        """The folder of a row."""
        return self.root / row.source / str(row.protocol)

# SPDX-License-Identifier: Apache-2.0
"""Write predictions to disk: CAMs as arrays, label maps as palette PNGs in the layout of VOC."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from dalnet.data.datasets.custom import CLASSES_FILE
from dalnet.data.image_io import write_mask
from dalnet.data.labels import has_labels
from dalnet.errors import UsageError
from dalnet.io import atomic_write, read_text, write_text

from .sources import Measurement

LABEL_FOLDER, CAM_FOLDER = "SegmentationClass", "CAM"


class Dump:
    """Writes one folder for each measurement: ``<root>/<source>/<protocol>/``.

    In it ``SegmentationClass/<image>.png``, palette PNGs of class indices (255 ignored), or, for
    CAMs without CRF, ``CAM/<image>.npz`` with ``classes`` int64 ``[P]``, the image's classes
    0..C-1, and ``cams`` float16 ``[P, H, W]`` in 0..1; in the end
    ``ImageSets/Segmentation/<split>.txt`` and ``classes.txt``, the classes 1..C, one a line.
    """

    def __init__(
        self,
        root: Path,
        measurements: Sequence[Measurement],
        split: str,
        class_names: Sequence[str],
    ) -> None:
        """
        Args:
            root: folders below it are made as needed.
            measurements: those that are written.
            split: name of the data set.
            class_names: of the model, background first.
        """
        self.root = root
        self._measurements = measurements
        self._split = split
        self._class_names = class_names

    def write_labels(self, measurement: Measurement, name: str, label_map: np.ndarray) -> None:
        """Write a label map, uint8 ``[H, W]``."""
        write_mask(self._file(measurement, name), label_map)

    def write_cams(
        self, measurement: Measurement, name: str, cams: Tensor, image_classes: Sequence[int]
    ) -> None:
        """Write CAMs ``[P, H, W]`` in 0..1 of an image's classes, 0..C-1."""
        path = self._file(measurement, name)
        classes, small = np.asarray(image_classes, dtype=np.int64), cams.half().cpu().numpy()
        with atomic_write(path) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, classes=classes, cams=small)

    def write_lists(self, records: Sequence[dict[str, Any]]) -> None:
        """List images and classes of each measurement, so that its folder is a VOC-layout tree."""
        for one in self._measurements:
            listed = (r for r in records if has_labels(r) or not one.needs_labels)
            text = "".join(f"{name}\n" for name in sorted(map(image_name, listed)))
            write_text(self._list_file(one), text)
            classes = "".join(f"{name}\n" for name in self._class_names[1:])
            write_text(self.folder(one) / CLASSES_FILE, classes)
            self._mark_file(one).unlink(missing_ok=True)

    def lost(self, records: Sequence[dict[str, Any]], settings: str) -> set[str]:
        """Return the names of the images of which no file of these settings is there."""
        marks = [self._mark_file(one) for one in self._measurements]
        if any(not mark.is_file() or read_text(mark) != settings for mark in marks):
            return set(map(image_name, records))
        return {
            image_name(record)
            for one in self._measurements
            for record in records
            if (has_labels(record) or not one.needs_labels)
            and not self._file(one, image_name(record)).is_file()
        }

    def begin(self, settings: str, is_new: bool) -> None:
        """Record the settings of a dump in its folders until it is complete.

        Where ``is_new``, lists of an earlier dump, whose files are now replaced, are removed.
        """
        for one in self._measurements:
            if is_new:
                self._list_file(one).unlink(missing_ok=True)
            write_text(self._mark_file(one), settings)

    def _mark_file(self, measurement: Measurement) -> Path:
        return self.folder(measurement) / f".{self._split}.made_with"

    def _file(self, measurement: Measurement, name: str) -> Path:
        kind, suffix = (CAM_FOLDER, "npz") if measurement.has_curve else (LABEL_FOLDER, "png")
        return self.folder(measurement) / kind / f"{name}.{suffix}"

    def _list_file(self, measurement: Measurement) -> Path:
        return self.folder(measurement) / "ImageSets" / "Segmentation" / f"{self._split}.txt"

    def folder(self, measurement: Measurement) -> Path:
        """Return the folder of a measurement."""
        return self.root / measurement.source / str(measurement.protocol)


def require_own_names(split: str, records: Sequence[dict[str, Any]]) -> None:
    """Refuse a split that has no images, or several images of the same name.

    Raises:
        UsageError: it is one.
    """
    if not records:
        raise UsageError("the split has no images", where=split, hint="name another")
    (name, times), *_ = Counter(map(image_name, records)).most_common(1)
    if times > 1:
        what = f"{times} images have files called {name}, whatever suffix they have"
        raise UsageError(what, where=split, hint="rename all but one")


def image_name(record: dict[str, Any]) -> str:
    """Return what an image is called in dumps and counts: its file's name without suffix.

    Of an image whose id is its path below the folder of the images, as of tagged ones, that path.
    """
    path, image_id = Path(record["file_name"]), str(record.get("image_id"))
    is_path = "/" in image_id and path.as_posix().endswith(f"/{image_id}")
    return str(PurePosixPath(image_id).with_suffix("")) if is_path else path.stem

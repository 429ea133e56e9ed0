# SPDX-License-Identifier: Apache-2.0
"""Reading back the label maps that an evaluation has dumped, each with its image."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.image_io import read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.dump import LABEL_FOLDER, image_name

_NO_IGNORE = -1  # a value that no mask has: every pixel needs a class


class DumpedLabels(NamedTuple):
    """One image's label map, uint8 ``[H, W]``, its file, and the record of the data set."""

    file: Path
    label_map: np.ndarray
    record: dict[str, Any]


def read_predictions(
    folder: Path, records: Sequence[dict[str, Any]], num_classes: int
) -> Iterator[DumpedLabels]:
    """Yield the label map of each image of a split, sorted by name.

    Args:
        folder: of one measurement of a dump.
        records: all images of the split.
        num_classes: background included.

    Raises:
        UsageError: an image without a prediction, or one of another split, of another size than
            its image or with other values.
    """
    folder = folder / LABEL_FOLDER
    if not folder.is_dir():
        raise UsageError(
            f"{folder} does not exist; name a folder of label maps that an evaluation has dumped, "
            "as DUMP/sem_seg/ms+flip+crf."
        )
    by_name = {image_name(record): record for record in records}
    found = {Path(name).stem for name in os.listdir(folder) if name.endswith(".png")}
    if by_name.keys() != found:
        missing, foreign = sorted(by_name.keys() - found), sorted(found - by_name.keys())
        raise UsageError(
            f"{folder} lacks {len(missing)} image(s) of the split and has {len(foreign)} of no "
            f"image of it, the first is {(missing or foreign)[0]}; dump the whole split into an "
            "empty folder."
        )
    for name, record in tqdm(sorted(by_name.items()), desc="reading", unit="image"):
        path, size = folder / f"{name}.png", _upright_size(record["file_name"])
        yield DumpedLabels(path, read_mask(str(path), size, num_classes, _NO_IGNORE), record)


def _upright_size(path: str) -> tuple[int, int]:
    """Return (height, width) of an image as it is shown, from its header alone."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
            return image.size if turned else image.size[::-1]
    except (OSError, ValueError) as error:
        raise UsageError(f"image {path} cannot be read ({error}): restore it.") from error

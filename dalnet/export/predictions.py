# SPDX-License-Identifier: Apache-2.0
"""Reading back the label maps that an evaluation has dumped, each with its image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dalnet.data.image_io import read_image, read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.dump import LABEL_FOLDER, image_name

_NO_IGNORE = -1  # a value that no mask has: every pixel needs a class


def read_predictions(
    folder: Path, records: Sequence[dict[str, Any]], num_classes: int
) -> Iterator[tuple[Path, np.ndarray, dict[str, Any]]]:
    """Yield the file, the label map (uint8 ``[H, W]``) and the record of each image, by name.

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
        hint = "name the folder of one measurement of a dump, as DUMP/sem_seg/ms+flip+crf"
        raise UsageError("there are no label maps", where=folder, hint=hint)
    by_name = {image_name(record): record for record in records}
    found = {path.stem for path in folder.glob("*.png")}
    if by_name.keys() != found:
        missing, foreign = sorted(by_name.keys() - found), sorted(found - by_name.keys())
        raise UsageError(
            f"{len(missing)} image(s) of the split are missing, {len(foreign)} are not of it; the "
            f"first is {(missing or foreign)[0]}",
            where=folder,
            hint="dump the whole split into an empty folder",
        )
    for name, record in tqdm(sorted(by_name.items()), desc="reading", unit="image"):
        path, size = folder / f"{name}.png", read_image(record["file_name"]).shape[:2]
        yield path, read_mask(str(path), size, num_classes, _NO_IGNORE), record

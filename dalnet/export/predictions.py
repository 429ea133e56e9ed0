# SPDX-License-Identifier: Apache-2.0
"""Read back the label maps that an evaluation has dumped, each with its image."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dalnet.config.classes import class_difference
from dalnet.data.datasets.custom import CLASSES_FILE
from dalnet.data.image_io import read_image, read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.dump import LABEL_FOLDER, image_name
from dalnet.io import read_lines

logger = logging.getLogger(__name__)

_NO_IGNORE = -1  # a value that no mask has: every pixel needs a class


def read_predictions(
    folder: Path, records: Sequence[dict[str, Any]], classes: Sequence[str]
) -> Iterator[tuple[Path, np.ndarray, dict[str, Any]]]:
    """Yield the file, the label map (uint8 ``[H, W]``) and the record of each image, by name.

    Args:
        folder: of one measurement of a dump.
        records: all images of the split.
        classes: names of the C foreground classes, in the order that the others want.

    Raises:
        UsageError: label maps of other classes or another order of them, an image without a
            prediction, or one of another split, of another size than its image or with other
            values.
    """
    check_classes(folder / CLASSES_FILE, classes)
    folder = folder / LABEL_FOLDER
    if not folder.is_dir():
        hint = "name the folder of one measurement of a dump, as DUMP/sem_seg/ms+flip+crf"
        raise UsageError("there are no label maps", where=folder, hint=hint)
    by_name = {image_name(record): record for record in records}
    found = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")}
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
        yield path, read_mask(str(path), size, len(classes) + 1, _NO_IGNORE), record


def check_classes(file: Path, classes: Sequence[str]) -> None:
    """Refuse label maps of other classes than these, which their numbers alone would not tell.

    Args:
        file: the list of the classes of a dump.
        classes: without the background.

    Raises:
        UsageError: they differ.
    """
    if not file.is_file():
        logger.warning("%s is missing: label maps are taken for those of these classes.", file)
        return
    found = read_lines(file, "evaluate again")
    if difference := class_difference(["background", *found], ["background", *classes]):
        hint = "name label maps of a model that was trained on these classes in this order"
        raise UsageError(f"label maps of other classes: {difference}", file, hint)

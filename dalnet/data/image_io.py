# SPDX-License-Identifier: Apache-2.0
"""Images and masks from disk, or a sentence on what is wrong with them."""

from pathlib import Path

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from dalnet.errors import UsageError
from dalnet.io import atomic_write

from .palette import voc_palette

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str) -> np.ndarray:
    """Read an image of any 8-bit kind upright (EXIF) as RGB, uint8 [H, W, 3].

    Raises:
        UsageError: it is missing, unreadable, too large or has more than 8 bits a channel.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            # Pillow cuts off what lies above 255: most of the image would be white.
            if image.mode.startswith(("I", "F")):
                what = f"it has more than 8 bits a pixel and one channel (mode {image.mode})"
                hint = "convert it to 8 bits, in the range that it is to be seen in"
                raise UsageError(what, where=path, hint=hint)
            # Detectron2's, as Pillow's own gives up on a damaged EXIF block.
            upright = detection_utils._apply_exif_orientation(image)
            return np.array(upright.convert("RGB"))
    except MemoryError as e:
        raise UsageError("the image does not fit into memory", where=path, hint="shrink it") from e
    except _UNREADABLE as e:
        hint = "restore it or take it off the list"
        raise UsageError(f"the image cannot be read ({e})", where=path, hint=hint) from e


def read_mask(path: str, size: tuple[int, int], num_classes: int, ignore: int = 255) -> np.ndarray:
    """Read a mask of class indices, uint8 [H, W].

    Args:
        path: single-channel or palette image.
        size: (H, W) of the image that it belongs to.
        num_classes: values 0 to ``num_classes - 1`` are classes, background included.
        ignore: value of pixels that count for nothing.

    Raises:
        UsageError: it is missing, unreadable, of another size or has other values.
    """
    try:
        mask = np.array(detection_utils.read_image(path))
    except _UNREADABLE as e:
        hint = "restore it or take its image off the list"
        raise UsageError(f"the mask cannot be read ({e})", where=path, hint=hint) from e
    if mask.shape != tuple(size):
        raise UsageError(
            f"the mask is {mask.shape} but its image is {tuple(size)} (height, width)",
            where=path,
            hint="masks must be single-channel and of the image's size",
        )
    wrong = mask[(mask >= num_classes) & (mask != ignore)]
    if wrong.size:
        raise UsageError(
            f"the mask contains the value {wrong[0]}, but there are classes 0 to "
            f"{num_classes - 1} and {ignore} for ignored pixels",
            where=path,
            hint="convert it to contiguous indices",
        )
    return mask


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a label map, uint8 [H, W], as PNG with VOC's palette, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    image = Image.fromarray(mask)
    image.putpalette(sum(voc_palette(), []))
    with atomic_write(path) as unfinished:
        image.save(unfinished, format="PNG")

# SPDX-License-Identifier: Apache-2.0
"""Read and write images and masks, or say in one sentence what is wrong with them.

The only place that turns images upright: an image's EXIF orientation is followed, a mask's is not.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from dalnet.errors import UsageError
from dalnet.io import atomic_write, require_file

from .palette import voc_palette

_EXIF_ORIENTATION = 0x0112
# What turns an image of this EXIF orientation upright, and what turns it back.
_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_LEFT_RIGHT),
    3: (Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_TOP_BOTTOM),
    5: (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSPOSE),
    6: (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_90),
    7: (Image.Transpose.TRANSVERSE, Image.Transpose.TRANSVERSE),
    8: (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
}
_FIRST_TURNED = 5  # of these, from which on width and height change places
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
# Raw modes of which Pillow keeps the upper 8 bits of 16: RGB;16B, but not BGR;16 with 5 a channel.
_CUT_TO_8_BITS = re.compile(r";16[BLN]|SGI16")
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"  # where it begins, and where its pixels do
_MAX_METADATA = 32 << 20  # bytes
# Of others, Pillow runs some as programs (EPS), or unfolds them without a bound (FITS, once).
_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX"),
    *("PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that change values


def read_image(path: str) -> np.ndarray:
    """Read an image of any 8-bit kind upright (EXIF) as RGB, uint8 [H, W, 3].

    Raises:
        UsageError: it is missing, unreadable, too large or has more than 8 bits a channel.
    """
    with open_image(path, "image") as image:
        return to_rgb(image, path)


def short_side(path: str) -> int:
    """Return the shorter side of an image in pixels, from its header.

    Raises:
        UsageError: it is missing, unreadable or too large.
    """
    with open_image(path, "image") as image:
        return min(image.size)


def decode_image(content: bytes, where: str) -> np.ndarray:
    """Return the image that a file's content holds, as :func:`read_image` does.

    Args:
        content: of an image file.
        where: what an error calls the image.

    Raises:
        UsageError: it is unreadable, too large or has more than 8 bits a channel.
    """
    with _image_errors(where, "image"), _open_safe(io.BytesIO(content)) as image:
        return to_rgb(image, where)


def to_rgb(image: Image.Image, where: str = "image") -> np.ndarray:
    """Return a PIL image upright (EXIF) as RGB, uint8 [H, W, 3], what is transparent over white.

    Args:
        image: of any mode.
        where: what an error calls the image.

    Raises:
        UsageError: it has more than 8 bits a channel.
    """
    refuse_deep(image, where)
    image.load()  # First: Pillow turns a TIFF while it loads it, and then drops the tag.
    turn = exif_orientation(image)
    if turn != 1:
        image = image.transpose(_TURNS[turn][0])
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def refuse_deep(image: Image.Image, where: str) -> None:
    """Refuse an opened image of more than 8 bits a channel.

    Pillow would cut off a gray one above 255, and keep of others the upper 8 bits alone.

    Raises:
        UsageError: it is such an image.
    """
    hint = "convert it to 8 bits, in the range that it is to be seen in"
    if _is_cut_to_8_bits(image) or (_ppm_maximum(image) or 0) > 255:
        raise UsageError("it has more than 8 bits a channel", where, hint)
    if image.mode.startswith(("I", "F")):
        what = f"it has more than 8 bits a pixel and one channel (mode {image.mode})"
        raise UsageError(what, where, hint)


def _is_cut_to_8_bits(image: Image.Image) -> bool:
    """Return whether Pillow would read only the upper 8 of 16 bits a channel."""
    if image.mode.startswith(("I", "F")):
        return False
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))  # of a TIFF in planes, tiles tell not
    return max(bits) > 8 or bool(_CUT_TO_8_BITS.search(str(getattr(image, "tile", ""))))


def _ppm_maximum(image: Image.Image) -> int | None:
    """Return the maximum of a PGM or PPM whose values Pillow would rescale, else None."""
    tiles: Sequence[Any] = getattr(image, "tile", None) or ()
    arguments: Sequence[Any] = tiles[0][3] if tiles and image.format == "PPM" else ()
    # Of a raw one Pillow leaves the values alone, and of a bitmap or floats it gives no maximum.
    if len(arguments) != 2 or not isinstance(arguments[1], int):
        return None
    maximum: int = arguments[1]
    return None if maximum == (65535 if image.mode == "I" else 255) else maximum


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) of an opened image after the rotation that its EXIF orientation asks for."""
    width, height = image.size
    if image.format == "TIFF":  # of which some versions of Pillow report the turned size
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(_TIFF_WIDTH, width), tags.get(_TIFF_HEIGHT, height)
    is_turned = exif_orientation(image) >= _FIRST_TURNED
    return (width, height) if is_turned else (height, width)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1..8; 1 where none or no valid one is given.

    Of a PNG that is not loaded yet, what stands behind the pixels is not looked for.
    """
    try:
        # Not the method of PNG's class, which decodes the whole image.
        orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
    except Exception:  # A damaged block raises anything; without it the image is as stored.
        return 1
    return orientation if orientation in _TURNS else 1


def read_mask(
    path: str,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    ignore: int = 255,
) -> np.ndarray:
    """Read a mask of class indices, uint8 [H, W], as it is stored: its own EXIF does not count.

    Palette images are read by index; images of 1 to 16 bits by value; color images whose
    channels are equal, and opaque alpha channels, are no obstacle.

    Args:
        path: of the mask.
        size: (H, W) of the upright image that it belongs to; None does not check it.
        num_classes: values 0 to ``num_classes - 1`` are classes, background included; None does
            not check them.
        ignore: value of pixels that count for nothing.

    Raises:
        UsageError: it is missing, unreadable, of a lossy format, in color, transparent, of another
            size or has other values.
    """
    with open_image(path, "mask") as image:
        values = _stored_values(image, path)
    if size is not None and values.shape != tuple(size):
        turned = values.shape == tuple(size)[::-1]
        raise UsageError(
            f"the mask is {values.shape} but its image is {tuple(size)} (height, width)",
            where=path,
            hint="EXIF turns the image; draw masks on upright images, or turn them as EXIF says"
            if turned
            else "masks must be of the image's size",
        )
    most = 255 if num_classes is None else num_classes - 1
    wrong = values[((values < 0) | (values > most)) & (values != ignore)]
    if wrong.size:
        raise UsageError(
            f"the mask contains the value {wrong[0]}, but there are classes 0 to {most} and "
            f"{ignore} for ignored pixels",
            where=path,
            hint="convert it to contiguous indices",
        )
    return values.astype(np.uint8)


def read_color_mask(path: str) -> np.ndarray:
    """Read a mask whose colors stand for classes, uint8 [H, W, 3] RGB, as it is stored.

    Raises:
        UsageError: it is missing, unreadable, of a lossy format or transparent.
    """
    with open_image(path, "mask") as image:
        return np.array(_load_as_stored(image, path).convert("RGB"))


def _load_as_stored(image: Image.Image, path: str) -> Image.Image:
    """Return a mask with its pixels loaded, not turned by EXIF."""
    if image.format in _LOSSY:
        what = f"the mask is stored as {image.format}, which changes class indices"
        raise UsageError(what, path, "write masks as PNG")
    if _is_cut_to_8_bits(image):
        what = "the mask has 16 bits a channel, of which only the upper 8 would be read"
        raise UsageError(what, path, "write class indices as PNG of 8 bits")
    if maximum := _ppm_maximum(image):
        what = f"the mask's white is {maximum}, to which its class indices would be stretched"
        raise UsageError(what, path, "write class indices as PNG, or with a maximum of 255")
    turn = exif_orientation(image)
    image.load()
    if turn != exif_orientation(image):  # a TIFF, which Pillow has turned
        image = image.transpose(_TURNS[turn][1])
    if "A" in image.getbands() and np.asarray(image)[..., -1].min() < 255:
        what = "the mask is partly transparent, so that its classes are not certain"
        raise UsageError(what, path, "write class indices as PNG without alpha channel")
    return image


def _stored_values(image: Image.Image, path: str) -> np.ndarray:
    """Return the values of an opened mask, [H, W], as its file stores them."""
    # Pillow spreads gray values of 2 and 4 bits over 0..255.
    raw_mode = str(getattr(image, "tile", ""))
    unit = 85 if "L;2" in raw_mode else 17 if "L;4" in raw_mode else 1
    image = _load_as_stored(image, path)
    values = np.asarray(image)
    if values.ndim == 3:
        colors = values[..., : len(image.getbands()) - ("A" in image.getbands())]
        if image.mode == "CMYK" or (colors != colors[..., :1]).any():
            hint = "convert colors to class indices: dalnet prepare masks"
            raise UsageError("the mask is in color, not of class indices", path, hint)
        values = colors[..., 0]
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise UsageError("the mask holds fractions", path, "write class indices as PNG")
    return values.astype(np.int64) // unit


@contextmanager
def open_image(path: str, kind: str) -> Iterator[Image.Image]:
    """Open an image file by Pillow.

    Args:
        path: whatever Detectron2's ``PathManager`` opens.
        kind: ``"image"`` or ``"mask"``, which the error speaks of.

    Raises:
        UsageError: it is missing, unreadable or too large, now or where the block loads it.
    """
    with _image_errors(path, kind):
        require_file(path)
        with PathManager.open(path, "rb") as file, _open_safe(file) as image:
            yield image


@contextmanager
def _image_errors(path: str, kind: str) -> Iterator[None]:
    """Turn what Pillow raises while it reads an image into one sentence."""
    try:
        yield
    except UsageError:
        raise
    except UnidentifiedImageError as e:
        is_empty = os.path.isfile(path) and not os.path.getsize(path)
        reason = "it is empty" if is_empty else "damaged, or of a format that Pillow lacks"
        hint = "restore it, convert it to JPEG or PNG, or take its image off the list"
        raise UsageError(f"the {kind} cannot be read ({reason})", path, hint) from e
    except MemoryError as e:
        raise UsageError(f"the {kind} does not fit into memory", path, "shrink it") from e
    except Exception as e:  # Of a damaged file, Pillow's readers of formats raise anything.
        hint = "restore it, or take its image off the list"
        raise UsageError(f"the {kind} cannot be read ({e})", path, hint) from e


def _open_safe(file: BinaryIO) -> Image.Image:
    """Open a file by Pillow, unless it does harm.

    Raises:
        ValueError: it has too much metadata or too many pixels, or is a program.
    """
    _refuse_metadata(file)
    image = Image.open(file)
    if image.format not in _FORMATS:
        raise ValueError(f"it is of the format {image.format}")
    limit = Image.MAX_IMAGE_PIXELS  # above which Pillow warns; its error comes at twice as many
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"it has {image.width} x {image.height} pixels, above {limit:,} in all")
    return image


def _refuse_metadata(file: BinaryIO) -> None:
    """Refuse a JPEG with more metadata before its pixels than any camera writes.

    Pillow joins the parts of Exif in a time that grows with the square of their size.
    """
    size = 0
    is_jpeg = file.read(2) == _JPEG
    while is_jpeg and size <= _MAX_METADATA and (marker := file.read(2)) not in (_SCAN, b""):
        if marker == b"\xff\xff":  # filled up; Pillow too goes through it byte by byte
            file.seek(-1, os.SEEK_CUR)
            size += 64
        else:
            length = max(int.from_bytes(file.read(2), "big"), 2)
            file.seek(length - 2, os.SEEK_CUR)
            size += length
    file.seek(0)
    if size > _MAX_METADATA:
        raise ValueError(f"it has more than {_MAX_METADATA >> 20} MB of metadata")


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a label map, uint8 [H, W], as PNG with VOC's palette, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(encode_mask(mask))


def encode_mask(mask: np.ndarray) -> bytes:
    """Return the content of a PNG file with VOC's palette that holds a label map, uint8 [H, W]."""
    image = Image.fromarray(mask)
    image.putpalette(sum(voc_palette(), []))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()

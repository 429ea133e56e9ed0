# SPDX-License-Identifier: Apache-2.0
"""The images in a folder, with all folders in it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dalnet.io import reading_errors

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
# Also what needs a plug-in of Pillow, so that it is named as unreadable rather than passed over.
_OTHER_IMAGES = ".avif .bmp .gif .heic .heif .jp2 .mpo .pgm .png .ppm .tif .tiff .webp"
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, *_OTHER_IMAGES.split())


def _refuse_folder(error: OSError) -> None:
    with reading_errors():
        raise error


def walk_files(
    folder: Path, on_error: Callable[[OSError], object] = _refuse_folder
) -> Iterator[Path]:
    """Yield the files below a folder, without hidden ones; linked folders are entered once.

    Args:
        folder: to look through.
        on_error: is called with the error of a folder that cannot be read, which is then passed
            over.

    Raises:
        UsageError: a folder cannot be read, unless ``on_error`` is given.
    """
    entered = set()
    for parent, folders, files in os.walk(folder, onerror=on_error, followlinks=True):
        place = os.path.realpath(parent)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def find_images(root: Path) -> list[str]:
    """Return the images below ``root`` as sorted POSIX paths relative to it.

    Raises:
        UsageError: a folder cannot be read.
    """
    found = (path for path in walk_files(root) if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path.relative_to(root).as_posix() for path in found)

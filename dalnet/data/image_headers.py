# SPDX-License-Identifier: Apache-2.0
"""What the headers of a list of images tell: which cannot be used, and how many EXIF turns."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tqdm import tqdm

from dalnet.errors import UsageError

from .image_io import exif_orientation, open_image, refuse_deep

_THREADS = 16  # network drives answer many at once
_SHOWN_AFTER = 2.0  # seconds, after which a bar says how far the reading is
_NAMED_IN_LOG = 20

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class Readable(NamedTuple):
    """The records of images that can be used, and the errors of the others."""

    records: list[Record]
    errors: list[UsageError]


class _Header(NamedTuple):
    is_turned: bool
    error: UsageError | None


def keep_readable(records: Sequence[Record], strict: bool) -> Readable:
    """Return the records of images whose headers can be read, and the errors of the others.

    The log names the first of the errors, and how many images EXIF turns, as masks have to be of
    upright images. Pixels are not read: that an image is cut off shows only when it is loaded.

    Args:
        records: with ``file_name``.
        strict: whether an image that cannot be read is an error.

    Raises:
        UsageError: an image that cannot be read and ``strict``, or none that can.
    """
    paths = [record["file_name"] for record in records]
    with ThreadPoolExecutor(_THREADS) as pool:
        reading = pool.map(_read_header, paths)
        bar = tqdm(reading, "image headers", len(paths), unit="image", delay=_SHOWN_AFTER)
        headers = list(bar)
    errors = [header.error for header in headers if header.error]
    if errors and (strict or len(errors) == len(records)):
        what = f"{errors[0].what} ({len(errors)} of {len(records)} images cannot be used)"
        raise UsageError(what, errors[0].where, errors[0].hint)
    if errors:
        names = "; ".join(map(str, errors[:_NAMED_IN_LOG]))
        logger.warning("left out %d of %d images: %s", len(errors), len(records), names)
    turned = sum(header.is_turned for header in headers)
    if turned:
        logger.warning(
            "%d of %d images are turned upright, as their EXIF says: masks have to be upright too.",
            turned,
            len(records),
        )
    kept = [record for record, header in zip(records, headers, strict=True) if not header.error]
    return Readable(kept, errors)


def count_turned(paths: Sequence[str]) -> int:
    """Return how many images are not stored upright, as their EXIF says."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(header.is_turned for header in pool.map(_read_header, paths))


def _read_header(path: str) -> _Header:
    try:
        with open_image(path, "image") as image:
            refuse_deep(image, path)
            return _Header(exif_orientation(image) != 1, None)
    except UsageError as error:
        return _Header(False, error)

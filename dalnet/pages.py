# SPDX-License-Identifier: Apache-2.0
"""Read templates of HTML pages, turn images into text for them, and write them."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from dalnet.io import atomic_write


def read_template(folder: str, name: str, **filters: Callable[..., str]) -> Template:
    """Return a template that escapes what it is filled with, and refuses names it is not given.

    Args:
        folder: of the package, as ``report``.
        name: of the file in it.
        filters: which the template uses beside jinja2's own.
    """
    pages = Environment(
        loader=PackageLoader("dalnet", folder),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        undefined=StrictUndefined,
    )
    pages.filters |= filters
    return pages.get_template(name)


def jpeg_base64(image: Image.Image, quality: int = 85) -> str:
    """Return an RGB image as a JPEG in base64, as ``data:image/jpeg;base64,`` takes it."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def write_html(path: Path, text: str) -> None:
    """Write a page in UTF-8, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with atomic_write(path) as unfinished:
        # Names of files need not be valid text.
        unfinished.write_text(text, encoding="utf-8", errors="replace")

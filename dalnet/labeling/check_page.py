# SPDX-License-Identifier: Apache-2.0
"""Write the findings about tagged images as one HTML page."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from dalnet.io import atomic_write

from .check import Findings


def write_page(findings: Findings, path: Path, title: str, estimate: str) -> None:
    """Write the page, which needs no other file.

    Args:
        findings: what was found.
        path: the page.
        title: its heading.
        estimate: how long a training takes; may be empty.

    Raises:
        UsageError: it cannot be written.
    """
    pages = Environment(
        loader=PackageLoader("dalnet", "labeling"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        undefined=StrictUndefined,
    )
    pages.filters["data_url"] = _data_url
    sides = [side for size in findings.sizes.values() for side in size]
    examples = {
        name: [file for file in findings.thumbnails if name in (findings.tags[file] or ())]
        for name in findings.classes
    }
    text = pages.get_template("check_page.html.j2").render(
        title=title,
        findings=findings,
        together=_count_together(findings),
        examples=examples,
        sides=(min(sides), max(sides)) if sides else None,
        estimate=estimate,
    )
    with atomic_write(path) as unfinished:
        # Names of files need not be valid text.
        unfinished.write_text(text, encoding="utf-8", errors="replace")


def _count_together(findings: Findings) -> dict[str, dict[str, int]]:
    """Return how many images show both of two classes; of a class with itself, how many show it."""
    shown = [set(tags) for tags in findings.tags.values() if tags]
    return {
        first: {
            second: sum({first, second} <= tags for tags in shown) for second in findings.classes
        }
        for first in findings.classes
    }


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

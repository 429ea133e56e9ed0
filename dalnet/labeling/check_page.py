# SPDX-License-Identifier: Apache-2.0
"""Write the findings about tagged images as one HTML page."""

from pathlib import Path

from dalnet.pages import jpeg_base64, read_template, write_html

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
    sides = [side for size in findings.sizes.values() for side in size]
    examples = {
        name: [file for file in findings.thumbnails if name in (findings.tags[file] or ())]
        for name in findings.classes
    }
    text = read_template("labeling", "check_page.html.j2", jpeg_base64=jpeg_base64).render(
        title=title,
        findings=findings,
        together=_count_together(findings),
        examples=examples,
        sides=(min(sides), max(sides)) if sides else None,
        estimate=estimate,
    )
    write_html(path, text)


def _count_together(findings: Findings) -> dict[str, dict[str, int]]:
    """Return how many images show both of two classes; of a class with itself, how many show it."""
    shown = [set(tags) for tags in findings.tags.values() if tags]
    return {
        first: {
            second: sum({first, second} <= tags for tags in shown) for second in findings.classes
        }
        for first in findings.classes
    }

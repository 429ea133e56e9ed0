# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML file that needs nothing else: what was run, results, curves, gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from dalnet.files import complete_or_absent

from .elements import Element, element, to_html
from .gallery import Card, gallery_parts
from .results import Result, results_parts, training_parts


@dataclass(frozen=True)
class Report:
    """What a report shows; what is empty is left out.

    Attributes:
        title: headline.
        facts: what was run, by name.
        notes: sentences: what is missing and what the reader has to know.
        results: contents of ``results.json`` files by the files' names, see
            ``dalnet.evaluation.results.summarise``.
        sources: what the sources of their rows are called.
        metrics: by key of Detectron2's ``metrics.json``, its values by iteration.
        training_protocols: by its keys of mIoU, what is measured and how.
        cards: the gallery.
        gallery_text: how its images were chosen and predicted.
        class_names: C + 1, background first.
        colors: as many RGB triples in 0..255.
    """

    title: str
    facts: Mapping[str, str]
    notes: Sequence[str]
    results: Mapping[str, Result]
    sources: Mapping[str, str]
    metrics: Mapping[str, Mapping[int, float]]
    training_protocols: Mapping[str, str]
    cards: Sequence[Card]
    gallery_text: str
    class_names: Sequence[str]
    colors: Sequence[Sequence[int]]


def save_report(path: Path, report: Report) -> None:
    """Write a report, under a temporary name until it is complete.

    Raises:
        UsageError: the file cannot be written.
    """
    # Names of files need not be valid text.
    page = build_page(report).encode("utf-8", errors="replace")
    with complete_or_absent(path) as unfinished:
        unfinished.write_bytes(page)


def build_page(report: Report) -> str:
    """Return the page as HTML."""
    sections = [section for section in _sections(report) if section is not None]
    links = [element("a", section[0].text, href=f"#{section.get('id')}") for section in sections]
    title = element("h1", report.title)
    body = [title, element("nav", *links, aria_label="Parts"), _head(report), *sections]
    return Template(_asset("page.html")).substitute(
        title=to_html(element("title", report.title)),
        style=_asset("page.css"),
        body=to_html(element("main", *body)),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _head(report: Report) -> Element:
    facts = [
        element("div", element("dt", name), element("dd", value))
        for name, value in report.facts.items()
    ]
    notes = [element("p", note, class_="note") for note in report.notes]
    return element("header", element("dl", *facts), *notes)


def _sections(report: Report) -> list[Element | None]:
    results = [
        part
        for name, result in report.results.items()
        for part in results_parts(name, result, report.sources)
    ]
    gallery = []
    if report.cards:
        text = element("p", report.gallery_text, class_="small")
        gallery = [text, *gallery_parts(report.cards, report.class_names, report.colors)]
    training = training_parts(report.metrics, report.training_protocols)
    return [
        _section("results", "Results", results),
        _section("training", "Training", training),
        _section("gallery", "Gallery", gallery),
    ]


def _section(name: str, title: str, parts: Sequence[Element]) -> Element | None:
    return element("section", element("h2", title), *parts, id=name) if parts else None

# SPDX-License-Identifier: Apache-2.0
"""Fills ``page.html.j2`` with the numbers, charts and images of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dalnet.evaluation.results import Result, left_out
from dalnet.evaluation.sources import Measurement
from dalnet.figures.overlay import Color, make_legend
from dalnet.numbers import percent, threshold_text
from dalnet.pages import read_template

from .charts import Line, draw_chart
from .gallery import Card

Metrics = Mapping[str, Line]


def render_page(
    *,
    results: Mapping[str, Result],
    measured: Sequence[Measurement],
    metrics: Metrics,
    cards: Sequence[Card],
    class_names: Sequence[str],
    colors: Sequence[Color],
    **others: object,
) -> str:
    """Return the page, which needs nothing else; what is empty is left out, and that is said.

    Args:
        results: contents of ``results.json`` files by the files' names.
        measured: how the gallery's images were predicted.
        metrics: of the training, by key its values by iteration.
        cards: the gallery.
        class_names: C + 1, background first.
        colors: as many RGB triples in 0..255.
        others: ``title``; ``split`` and ``records``, the data set and its images; ``facts``, what
            was run, by name; ``usual_results``, the file where results are expected.
    """
    filters = {"percent": percent, "threshold": threshold_text}
    source_titles = {one.source: one.title for one in measured}
    return read_template("report", "page.html.j2", **filters).render(
        results=results,
        measured=measured,
        source_titles=source_titles,
        draw_threshold_charts=draw_threshold_charts,
        left_out=left_out,
        miou_charts=draw_miou_charts(metrics, source_titles),
        loss_charts=draw_loss_charts(metrics),
        cards=cards,
        legend=make_legend(sorted({i for card in cards for i in card.labels}), class_names, colors),
        class_names=class_names,
        **others,
    )


def draw_threshold_charts(
    measurements: Sequence[Mapping[str, Any]], source_titles: Mapping[str, str]
) -> dict[str, Markup]:
    """Draw mIoU over the threshold, by title: a chart per source, a line per protocol."""
    charts = {}
    with_curve = [one for one in measurements if "curve" in one]
    for source in dict.fromkeys(one["source"] for one in with_curve):
        lines, best = {}, {}
        for one in (one for one in with_curve if one["source"] == source):
            name = f"{one['protocol']}, scales {', '.join(map(str, one['scales']))}"
            lines[name] = dict(zip(one["curve"]["thresholds"], one["curve"]["miou"], strict=True))
            best[name] = one["best_threshold"], one["best_miou"]
            used = one["threshold"]
        title = f"mIoU % of the {source_titles.get(source, source)}"
        charts[title] = draw_chart(title, lines, "threshold", best, used)
    return charts


def draw_miou_charts(metrics: Metrics, source_titles: Mapping[str, str]) -> dict[str, Markup]:
    """Draw the mIoU that a training measured over its iterations, by title."""
    lines = {}
    for source, title in source_titles.items():
        # SOURCE/mIoU; where there are several test splits SPLIT/SOURCE/mIoU.
        for key in (key for key in metrics if f"/{key}".endswith(f"/{source}/mIoU")):
            split = key.removesuffix(f"{source}/mIoU").replace("/", ", ")
            last = metrics[key][max(metrics[key])]
            lines[f"{split}{title}: {percent(last)} at the end"] = metrics[key]
    return {"mIoU %": draw_chart("mIoU %", lines, "iteration")} if lines else {}


def draw_loss_charts(metrics: Metrics) -> dict[str, Markup]:
    """Draw losses and learning rate over the iterations, by title."""
    charts = {}
    for key in ("total_loss", *sorted(key for key in metrics if key.startswith("loss")), "lr"):
        if key in metrics:
            name = "learning rate" if key == "lr" else key
            charts[name] = draw_chart(name, {name: metrics[key]}, "iteration")
    return charts

# SPDX-License-Identifier: Apache-2.0
"""The parts of a run's report that show numbers: tables, bars by class, curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from dalnet.numbers import percent, threshold_text

from .charts import Line, line_chart
from .elements import Element, element

Result = Mapping[str, Any]
_MEASURED = (
    "IoU in percent. Protocol: ss is one scale, ms several, flip adds the mirror image, crf the "
    "dense CRF. CAMs and pseudo labels are given the classes of each image; only the segmentation "
    "head predicts them. The mIoU of a pseudo label counts the labelled pixels only."
)


def results_parts(name: str, result: Result, sources: Mapping[str, str]) -> list[Element]:
    """Everything about one ``results.json``: table, IoU by class, threshold curves.

    Args:
        name: of the file.
        result: what it holds, see ``dalnet.evaluation.results.summarise``.
        sources: what the sources of its rows are called.
    """
    facts = (
        f"{name}: {result['split']}, {result['num_images']} images, {result['num_scored']} of "
        f"them with a mask; weights sha256 {result['weights_sha256']}"
    )
    parts = [element("p", facts, class_="facts")]
    if not result["rows"]:
        return [*parts, element("p", "No image had a mask, so nothing was measured.")]
    parts += [_results_table(result, sources), element("p", _measured(result), class_="small")]
    curves = _threshold_curves(result, sources)
    if curves:
        explained = "Dashed: the threshold in use. Ringed: the best one, chosen on this very split."
        parts += _charts("mIoU of the CAMs by threshold", curves)
        parts.append(element("p", explained, class_="small"))
    parts.append(element("h3", "IoU by class"))
    protocols = list(dict.fromkeys(row["protocol"] for row in result["rows"]))
    parts += [_class_bars(result, p, sources, p == protocols[0]) for p in protocols]
    return parts


def _measured(result: Result) -> str:
    rows = result["rows"]
    absent = [name for name, value in rows[0]["iou"].items() if value is None]
    crf = next((row["crf"] for row in rows if row["crf"]), None)
    text = _MEASURED
    if crf:
        text += " CRF: " + ", ".join(f"{key} {value}" for key, value in crf.items()) + "."
    if absent:
        text += f" Left out of every mean, as no mask shows them: {', '.join(absent)}."
    return text


def _results_table(result: Result, sources: Mapping[str, str]) -> Element:
    head = (
        *("source", "protocol", "scales", "mirror", "CRF", "threshold"),
        *("mIoU %", "best mIoU %", "labelled %"),
    )
    body = [
        [
            sources.get(row["source"], row["source"]),
            row["protocol"],
            ", ".join(map(str, row["scales"])),
            "yes" if row["flip"] else "no",
            "yes" if row["crf"] else "no",
            threshold_text(row["threshold"]),
            percent(row["miou"]),
            _best(row),
            percent(row["labelled"]),
        ]
        for row in result["rows"]
    ]
    lines = []
    for cells in body:
        first, *others = cells
        data = [element("td", cell) for cell in others]
        lines.append(element("tr", element("th", first, scope="row"), *data))
    return _scrolling(_table(head, lines), "results")


def _table(head: Sequence[str], lines: Sequence[Element]) -> Element:
    titles = element("tr", *(element("th", title, scope="col") for title in head))
    return element("table", element("thead", titles), element("tbody", *lines))


def _scrolling(table: Element, name: str) -> Element:
    """A frame that the keyboard can reach and scroll where the window is narrow."""
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=name)


def _best(row: Mapping[str, Any]) -> str:
    if "curve" not in row:
        return "-"
    return f"{percent(row['best_miou'])} at {row['best_threshold']:g}"


def _threshold_curves(result: Result, sources: Mapping[str, str]) -> list[Element | None]:
    """A chart per source, a line per protocol."""
    rows = [row for row in result["rows"] if "curve" in row]
    charts = []
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        title = f"mIoU % of the {sources.get(source, source)}"
        lines = [_curve(row) for row in own]
        charts.append(line_chart(title, lines, "threshold", (0, 1), own[0]["threshold"]))
    return charts


def _curve(row: Mapping[str, Any]) -> Line:
    values = [float("nan") if value is None else value for value in row["curve"]["miou"]]
    name = f"{row['protocol']}, scales {', '.join(map(str, row['scales']))}"
    marked = None if row["best_miou"] is None else (row["best_threshold"], row["best_miou"])
    return Line(name, list(zip(row["curve"]["thresholds"], values, strict=True)), marked)


def _class_bars(result: Result, protocol: str, sources: Mapping[str, str], opened: bool) -> Element:
    """Classes down, the sources measured with ``protocol`` across; can be folded."""
    rows = [row for row in result["rows"] if row["protocol"] == protocol]
    head = ["class"]
    for row in rows:
        threshold = (
            "" if row["threshold"] is None else f", threshold {threshold_text(row['threshold'])}"
        )
        scales = ", ".join(map(str, row["scales"]))
        head.append(f"{sources.get(row['source'], row['source'])} (scales {scales}{threshold})")
    lines = []
    for name in rows[0]["iou"]:
        bars = [_bar(row["iou"].get(name)) for row in rows]
        lines.append(element("tr", element("th", name, scope="row"), *bars))
    means = [_bar(row["miou"]) for row in rows]
    lines.append(element("tr", element("th", "mean", scope="row"), *means, class_="mean"))
    summary = element("summary", f"protocol {protocol}")
    table = _scrolling(_table(head, lines), f"IoU by class, protocol {protocol}")
    return element("details", summary, table, class_="bars", open="" if opened else None)


def _bar(value: float | None) -> Element:
    width = 0.0 if value is None else min(max(value, 0.0), 100.0)
    filled = element("span", class_="bar", style=f"width:{width:.1f}%")
    track = element("span", filled, class_="track", aria_hidden="true")
    return element("td", element("span", percent(value), class_="number"), track)


def training_parts(
    metrics: Mapping[str, Mapping[int, float]], protocols: Mapping[str, str]
) -> list[Element]:
    """Curves of losses, learning rate and mIoU over the iterations.

    Args:
        metrics: by key of ``metrics.json``, its values by iteration.
        protocols: by those of its keys that are mIoU, what is measured and how.
    """
    iterations = [i for series in metrics.values() for i in series]
    if not iterations:
        return []
    x_range = (min(iterations), max(iterations))
    own = [key for key in metrics if key.startswith("loss") or key in ("total_loss", "lr")]
    own.sort(key=lambda key: (key != "total_loss", key == "lr", key))
    charts = [line_chart(_named(k), [_series(k, metrics[k])], "iteration", x_range) for k in own]
    measured = [
        _series(f"{text}: {metrics[key][max(metrics[key])]:.1f} at the end", metrics[key])
        for key, text in protocols.items()
    ]
    return [
        *_charts("mIoU", [line_chart("mIoU %", measured, "iteration", x_range)]),
        *_charts("Losses and learning rate", charts),
    ]


def _charts(title: str, charts: Sequence[Element | None]) -> list[Element]:
    drawn = [chart for chart in charts if chart is not None]
    return [element("h3", title), element("div", *drawn, class_="charts")] if drawn else []


def _named(key: str) -> str:
    return "learning rate" if key == "lr" else key


def _series(name: str, series: Mapping[int, float]) -> Line:
    return Line(name, sorted(series.items()))

# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep: mean and spread over the seeds of every run. All figures in percent."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from dalnet.evaluation.protocol import MODEL_KEYS, SOURCES
from dalnet.files import complete_or_absent
from dalnet.numbers import percent

from .sweep_plan import Job
from .sweep_results import Result, load_result

# Title by key in Detectron2's metrics: CAMs first, as in the paper's ablation.
_COLUMNS = {MODEL_KEYS[name]: SOURCES[name] for name in ("cam", "cam_inter", "pseudo", "seg")}

Table = dict[str, Any]


def make_table(jobs: Sequence[Job], reference: str | None = None) -> Table:
    """Put together what is finished of ``jobs``.

    Args:
        jobs: of a sweep.
        reference: name of the run that the others are compared with, seed by seed.

    Returns:
        ``seeds``; ``unfinished``, the names of jobs without a result; and ``splits``, one entry
        for each split (and number of images, should a folder have changed between trainings) with
        ``split``, ``num_images`` and ``runs``. A run has ``run``, ``config``, ``iterations``,
        ``seeds`` (those finished) and ``sources``: by key ``title``, ``protocol``, ``miou`` (by
        seed), ``mean``, ``std`` (sample standard deviation, None for one seed) and ``labelled``
        (mean). With a ``reference`` (named in the table, too) the other runs that share finished
        seeds with it also have ``differences``: ``seeds`` (the shared ones) and ``sources`` with
        ``miou`` (run minus reference, by seed), ``mean`` and ``std``.

    Raises:
        UsageError: a result that cannot be read.
    """
    results = {job: load_result(job) for job in jobs}
    groups: dict[tuple[str, int], dict[str, list[Result]]] = {}
    for job, result in results.items():
        for split, measured in (result or {"splits": {}})["splits"].items():
            runs = groups.setdefault((split, measured["num_images"]), {})
            runs.setdefault(job.run, []).append({**result, **measured})
    order = list(dict.fromkeys(job.run for job in jobs))
    return {
        "seeds": sorted({job.seed for job in jobs}),
        "reference": reference,
        "unfinished": [str(job) for job, result in results.items() if result is None],
        "splits": [
            {
                "split": split,
                "num_images": num_images,
                "runs": _compare(
                    [_make_run(runs[name]) for name in order if name in runs], reference
                ),
            }
            for (split, num_images), runs in groups.items()
        ],
    }


def _make_run(results: list[Result]) -> Table:
    """One row: the seeds of a run on one split."""
    first = results[0]
    return {
        **{key: first[key] for key in ("run", "config", "iterations")},
        "seeds": [result["seed"] for result in results],
        "sources": {
            key: _make_cell([result["sources"][key] for result in results])
            for key in first["sources"]
        },
    }


def _make_cell(measured: list[dict[str, Any]]) -> Table:
    return {
        **{key: measured[0][key] for key in ("title", "protocol")},
        **_summarise([one["miou"] for one in measured]),
        "labelled": _mean_or_none([one["labelled"] for one in measured]),
    }


def _compare(runs: list[Table], reference: str | None) -> list[Table]:
    """Add ``differences`` to the runs other than the reference."""
    base = next((run for run in runs if run["run"] == reference), None)
    for run in runs:
        shared = [seed for seed in run["seeds"] if base and seed in base["seeds"]]
        if run is not base and shared:
            run["differences"] = {
                "seeds": shared,
                "sources": {
                    key: _summarise([_subtract(run, base, key, seed) for seed in shared])
                    for key in run["sources"].keys() & base["sources"].keys()
                },
            }
    return runs


def _subtract(run: Table, base: Table, key: str, seed: int) -> float | None:
    a, b = (r["sources"][key]["miou"][r["seeds"].index(seed)] for r in (run, base))
    return None if a is None or b is None else a - b


def _summarise(values: list[float | None]) -> Table:
    # A seed whose mean is not finite has no figure, and without it the run has none either.
    complete = None not in values
    return {
        "miou": values,
        "mean": _mean_or_none(values),
        "std": float(np.std(values, ddof=1)) if complete and len(values) > 1 else None,
    }


def _mean_or_none(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def format_table(table: Table) -> str:
    """The table as Markdown, with split, number of images and protocols."""
    seeds = ", ".join(map(str, table["seeds"]))
    parts = [
        "mIoU in percent: mean ± sample standard deviation over the n seeds that are finished "
        f"(of {seeds}); one seed has no spread."
    ]
    for group in table["splits"]:
        parts += [
            f"**{group['split']}, {group['num_images']} images**",
            _format_protocols(group["runs"]),
            _format_runs(group["runs"]),
        ]
        if any("differences" in run for run in group["runs"]):
            parts += [
                f"Minus {table['reference']} of the same seed: mean ± sample standard deviation "
                "(in how many of the seeds above it):",
                _format_differences(group["runs"]),
            ]
    if table["unfinished"]:
        parts.append("Not finished: " + "; ".join(table["unfinished"]) + ".")
    return "\n\n".join(parts) + "\n"


def _format_protocols(runs: list[Table]) -> str:
    """A line for each source; where runs differ, one for each protocol with their names."""
    lines = []
    for key in _COLUMNS:
        used: dict[tuple[str, str], list[str]] = {}
        for run in runs:
            if source := run["sources"].get(key):
                used.setdefault((source["title"], source["protocol"]), []).append(run["run"])
        for (title, protocol), names in used.items():
            whose = f" ({', '.join(names)})" if len(used) > 1 else ""
            lines.append(f"- {title}{whose}: {protocol}")
    return "\n".join(lines)


def _format_runs(runs: list[Table]) -> str:
    headers = ["run", "iterations", "n"]
    for key, title in _COLUMNS.items():
        headers += [title, "labelled %"] if key == "pseudo_label" else [title]
    rows = []
    for run in runs:
        row = [run["run"], run["iterations"], len(run["seeds"])]
        for key in _COLUMNS:
            cell = run["sources"].get(key, {})
            row.append(_format_cell(cell))
            if key == "pseudo_label":
                # Its mIoU counts labelled pixels only: it means nothing without their share.
                row.append(percent(cell.get("labelled")))
        rows.append(row)
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _format_differences(runs: list[Table]) -> str:
    rows = []
    for run in runs:
        if differences := run.get("differences"):
            cells = [differences["sources"].get(key, {}) for key in _COLUMNS]
            rows.append([run["run"], *(_format_cell(cell) + _count_above(cell) for cell in cells)])
    return tabulate(rows, ["run", *_COLUMNS.values()], tablefmt="github", disable_numparse=True)


def _count_above(cell: Table) -> str:
    if cell.get("mean") is None:
        return ""
    return f" ({sum(value > 0 for value in cell['miou'])}/{len(cell['miou'])})"


def _format_cell(cell: Table) -> str:
    spread = cell.get("std")
    return percent(cell.get("mean")) + (f" ± {spread:.1f}" if spread is not None else "")


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write ``table.md`` and ``table.json``; returns their paths."""
    contents = {
        folder / "table.md": format_table(table),
        folder / "table.json": json.dumps(table, indent=1) + "\n",
    }
    for path, text in contents.items():
        with complete_or_absent(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return list(contents)

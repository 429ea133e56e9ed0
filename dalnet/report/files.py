# SPDX-License-Identifier: Apache-2.0
"""What trainings and evaluations have left on disk: results.json and metrics.json."""

import json
from pathlib import Path
from typing import Any

from dalnet.errors import UsageError


def read_results(path: Path) -> dict[str, Any]:
    """Read a ``results.json``; see ``dalnet.evaluation.results`` for what it holds.

    Raises:
        UsageError: it is missing, unreadable or something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}): name a results.json that an evaluation wrote."
        ) from error
    if not isinstance(result, dict) or "measurements" not in result:
        raise UsageError(f"{path} holds no measurements: name a results.json of an evaluation.")
    return result


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read Detectron2's ``metrics.json``: by key its values by iteration; empty without a file.

    A line that a kill has cut is skipped. Where a resumed training has gone over an iteration
    again, the later value counts.
    """
    metrics: dict[str, dict[int, float]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        iteration = values.pop("iteration")
        for key, value in values.items():
            metrics.setdefault(key, {})[iteration] = value
    return metrics

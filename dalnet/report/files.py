# SPDX-License-Identifier: Apache-2.0
"""What a training has left on disk: metrics.json."""

import json
from pathlib import Path


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

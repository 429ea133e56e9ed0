# SPDX-License-Identifier: Apache-2.0
"""Reading back what trainings and evaluations have written, whoever has touched it since."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalnet.errors import UsageError

_NUMBER = (int, float)
_NONE = type(None)
_RESULT = {
    "split": str,
    "num_images": int,
    "num_scored": int,
    "weights_sha256": str,
    "rows": list,
}
_ROW = {
    "source": str,
    "protocol": str,
    "scales": list,
    "flip": bool,
    "crf": (dict, _NONE),
    "threshold": (*_NUMBER, list, _NONE),
    "miou": (*_NUMBER, _NONE),
    "iou": dict,
    "labelled": _NUMBER,
}
_CURVE_ROW = {
    "threshold": _NUMBER,
    "best_threshold": _NUMBER,
    "best_miou": (*_NUMBER, _NONE),
    "curve": dict,
}


def read_results(path: Path) -> dict[str, Any]:
    """Read a ``results.json``, as ``dalnet.evaluation.results.summarise`` describes it.

    Raises:
        UsageError: it is missing, unreadable or something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}): name a results.json that tools/evaluate.py wrote."
        ) from error
    fault = next(_faults(result), None)
    if fault:
        raise UsageError(f"{path} is no results.json of tools/evaluate.py: {fault}; name one.")
    return result


def _faults(result: object) -> Iterator[str]:
    """What is wrong with it, the first thing first."""
    yield from _wrong_keys(result, _RESULT, "the file")
    for number, row in enumerate(result["rows"]):
        name = f"row {number}"
        yield from _wrong_keys(row, _ROW, name)
        yield from _wrong_values(row["iou"].values(), (*_NUMBER, _NONE), f"iou of {name}")
        yield from _wrong_values(row["scales"], _NUMBER, f"scales of {name}")
        if isinstance(row["threshold"], list):
            yield from _wrong_values(row["threshold"], _NUMBER, f"threshold of {name}")
        if "curve" in row:
            yield from _wrong_keys(row, _CURVE_ROW, name)
            curve = row["curve"]
            yield from _wrong_keys(curve, {"thresholds": list, "miou": list}, f"curve of {name}")
            yield from _wrong_values(curve["thresholds"], _NUMBER, f"curve of {name}")
            yield from _wrong_values(curve["miou"], (*_NUMBER, _NONE), f"curve of {name}")
            if len(curve["thresholds"]) != len(curve["miou"]) or not curve["miou"]:
                yield f"curve of {name} is not one mIoU per threshold"


def _wrong_keys(found: object, expected: dict[str, Any], name: str) -> Iterator[str]:
    if not isinstance(found, dict):
        yield f"{name} is no object"
        return
    for key, kind in expected.items():
        if key not in found:
            yield f"{name} has no {key}"
        elif not isinstance(found[key], kind):
            yield f"{key} of {name} has the wrong type"


def _wrong_values(values: object, kind: tuple[type, ...], name: str) -> Iterator[str]:
    if not all(isinstance(value, kind) for value in values):
        yield f"{name} holds something that is no number"


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read Detectron2's ``metrics.json``; lines that a kill has cut are skipped.

    Where a resumed training has gone over an iteration again, the later value counts.

    Returns:
        By key its values by iteration.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}): repair it or move it away.") from error
    metrics: dict[str, dict[int, float]] = {}
    for line in text.splitlines():
        try:
            values = json.loads(line)
            iteration = values.pop("iteration")
            numbers = {key: float(v) for key, v in values.items() if isinstance(v, _NUMBER)}
        except (ValueError, OverflowError, RecursionError, AttributeError, KeyError, TypeError):
            continue
        if isinstance(iteration, int):
            for key, value in numbers.items():
                metrics.setdefault(key, {})[iteration] = value
    return metrics

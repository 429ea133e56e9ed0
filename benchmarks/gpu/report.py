# SPDX-License-Identifier: Apache-2.0
"""The JSON file of all rows, complete after every row, and the table that is printed of it."""

import json
import os
import platform
from pathlib import Path

import torch
from tabulate import tabulate

from benchmarks.compare import Row

# The columns of the table; a row's other numbers stand in its last one.
_COLUMNS = ("part", "name", "seconds", "peak_mb", "error")
# In the JSON alone: as the same everywhere, or only of use when the command is changed.
_NOT_IN_TABLE = (*_COLUMNS, "card", "torch", "device", "took_seconds")


def card() -> str:
    """Return the name of the GPU, or of what runs in its place."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


class Report:
    """Rows of figures in a JSON file ``{"machine": {...}, "rows": [...]}``.

    Processes may add to one file in turn, not at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self) -> None:
        """Write the file anew, without rows."""
        machine = {
            "card": card(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu_cores": len(os.sched_getaffinity(0)),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write({"machine": machine, "rows": []})

    def add(self, part: str, row: Row) -> None:
        """Append one row; it gets the names of the card and of torch's version."""
        content = json.loads(self.path.read_text())
        machine = content["machine"]
        common = {"part": part, "card": machine["card"], "torch": machine["torch"]}
        content["rows"].append({**common, "seconds": None, "peak_mb": None, "error": None, **row})
        self._write(content)

    def rows(self) -> list[Row]:
        """Return all rows in the order in which they were added."""
        return json.loads(self.path.read_text())["rows"]

    def table(self) -> str:
        """Return the rows as text, without their lists."""
        lines = [[*(row[key] for key in _COLUMNS), _others(row)] for row in self.rows()]
        return tabulate(lines, [*_COLUMNS, ""], floatfmt=".4g", maxcolwidths=[None] * 5 + [90])

    def _write(self, content: dict) -> None:
        # Beside the file and then in its place: who is stopped in between leaves the old one.
        unfinished = self.path.with_name(f".{self.path.name}.tmp")
        unfinished.write_text(json.dumps(content, indent=1, default=float) + "\n")
        os.replace(unfinished, self.path)


def _others(row: Row) -> str:
    found = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in _NOT_IN_TABLE and value is not None and not isinstance(value, list | dict)
    )
    return ", ".join(found)

# SPDX-License-Identifier: Apache-2.0
"""The results file: a JSON list of rows, one per case and device."""

import json
from pathlib import Path
from typing import Any

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of the file, none if it does not exist.

    Raises:
        UsageError: it exists, but holds something else.
    """
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        [(row["name"], row["device"]) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not a results file of benchmarks: move it away.") from error
    return rows


def update_rows(path: Path, new: list[Row]) -> None:
    """Write ``new`` rows over those of the same case and device; the others stay as they are."""
    rows = {(row["name"], row["device"]): row for row in [*read_rows(path), *new]}
    with complete_or_absent(path) as unfinished:
        unfinished.write_text(json.dumps(list(rows.values()), indent=1) + "\n")

# SPDX-License-Identifier: Apache-2.0
"""Figures that may be missing: ``None`` in files, "-" in tables."""

import math
from collections.abc import Sequence


def finite_or_none(value: float) -> float | None:
    """JSON has no nan."""
    return float(value) if math.isfinite(value) else None


def percent(value: float | None) -> str:
    """One decimal."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def threshold_text(values: float | Sequence[float] | None) -> str:
    """One threshold, or two as "low / high"."""
    if values is None:
        return "-"
    return " / ".join(f"{v:g}" for v in (values if isinstance(values, Sequence) else [values]))

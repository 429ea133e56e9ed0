# SPDX-License-Identifier: Apache-2.0
"""Format numbers that may be missing: ``None`` in files, "-" in tables."""

import math
from collections.abc import Sequence


def finite_or_none(value: float) -> float | None:
    """Return ``value``, or None for nan and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def percent(value: float | None) -> str:
    """Return ``value`` with one decimal, or "-" where it is missing."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def threshold_text(values: float | Sequence[float] | None) -> str:
    """Return one threshold, two as "low / high", or "-" for none."""
    if values is None:
        return "-"
    return " / ".join(f"{v:g}" for v in (values if isinstance(values, Sequence) else [values]))

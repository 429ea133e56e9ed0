# SPDX-License-Identifier: Apache-2.0
"""Part 2: every numerical kernel beside its published form, on one device."""

from collections.abc import Iterator
from functools import partial

from benchmarks.cases import CASES
from benchmarks.compare import Case, Row, compare
from benchmarks.gpu.part import Measurement, NotRun, Setting


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield one measurement for each case that makes sense on a GPU."""
    for case in CASES:
        if "cuda" in case.devices:
            yield Measurement(case.name, partial(_compare, case, setting))


def _compare(case: Case, setting: Setting) -> Row:
    try:
        return compare(case, setting.device, setting.tiny)
    except ImportError as error:
        raise NotRun(str(error)) from error

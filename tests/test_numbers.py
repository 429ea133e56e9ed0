# SPDX-License-Identifier: Apache-2.0
"""Figures that may be missing."""

import math

from dalnet.numbers import finite_or_none, percent, threshold_text


def test_missing_figures_are_none_in_files_and_one_sign_in_tables():
    assert [finite_or_none(value) for value in (1.25, math.nan, math.inf)] == [1.25, None, None]
    assert [percent(value) for value in (61.25, 0.0, None, math.nan)] == ["61.2", "0.0", "-", "-"]
    assert [threshold_text(value) for value in (None, 0.45, [0.25, 0.7])] == [
        *("-", "0.45", "0.25 / 0.7")
    ]

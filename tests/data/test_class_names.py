# SPDX-License-Identifier: Apache-2.0
"""Names that no class can have."""

import pytest

from dalnet.data.class_names import fault_of_name


@pytest.mark.parametrize("name", ["cat", "K\u00e4fer", "\u72ac", "a b", "<b>", "../x", "x" * 200])
def test_names_of_any_script_and_sign(name):
    assert fault_of_name(name) == ""


@pytest.mark.parametrize("name", ["a\nb", "\0", "\x1b[31m", "\u2028", "\ud800", "x" * 201])
def test_names_that_break_lines_or_cannot_be_written(name):
    assert fault_of_name(name)

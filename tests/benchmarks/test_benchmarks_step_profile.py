# SPDX-License-Identifier: Apache-2.0
"""The profile of the training step: parts inside parts, and every part found."""

from types import SimpleNamespace

import pytest

from benchmarks import step_profile
from benchmarks.step_profile import PARTS, seconds_by_part


def _event(name, start, end):
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(name=name, time_range=span)


def test_a_part_is_counted_without_the_parts_inside_it():
    outer, middle, inner = PARTS[6], PARTS[2], PARTS[1]
    events = [
        _event(inner, 2e6, 3e6),
        _event(inner, 4e6, 4.5e6),
        _event("aten::mm", 2e6, 3e6),
        _event(outer, 0, 10e6),
        _event(middle, 1e6, 5e6),
        _event(PARTS[7], 10e6, 12e6),
    ]
    expected = {outer: 6.0, middle: 2.5, inner: 1.5, PARTS[7]: 2.0}
    assert seconds_by_part(events) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["ours", "plain"])
def test_every_part_of_a_step_is_found(form, monkeypatch):
    found = {}

    def keep(events):
        found.update(seconds_by_part(events))
        return found

    monkeypatch.setattr(step_profile, "seconds_by_part", keep)
    monkeypatch.setattr(step_profile, "matrix_rate", lambda *_: 1e9)
    step_profile.main(["--small", "--images", "2", "--form", form])
    assert found.keys() == set(PARTS)
    assert all(seconds > 0 for seconds in found.values())

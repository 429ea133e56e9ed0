# SPDX-License-Identifier: Apache-2.0
"""Rows of classes are matched by name, whatever their number."""

import pytest
import torch
from helpers import make_model

from dalnet.modeling.class_rows import match_class_rows

ROWS = {"head.weight": 0, "cam.weight": 1}
THEIRS = ("background", "cat", "dog", "horse")


def state_of(names, value):
    """Row of class i is value + i; the head has one for the background too."""
    count = len(names)
    numbers = value + torch.arange(count, dtype=torch.float32)[:, None].expand(-1, 2)
    return {"head.weight": numbers, "cam.weight": numbers[1:], "encoder.weight": torch.ones(3)}


@pytest.mark.parametrize(
    "ours, taken, expected",
    [
        # As many classes, others: nothing but what bears the same name.
        (("ground", "horse", "bird", "cat"), ["horse", "cat"], [100, 103, 2, 101]),
        (("background", "bird"), [], [100, 1]),
        (("background", "dog", "cow", "cat"), ["dog", "cat"], [100, 102, 2, 101]),
        (THEIRS, ["cat", "dog", "horse"], [100, 101, 102, 103]),
    ],
)
def test_rows_follow_their_names(ours, taken, expected):
    state, own = state_of(THEIRS, 100), state_of(ours, 0)
    assert match_class_rows(state, own, ROWS, THEIRS, ours) == taken
    assert state["head.weight"][:, 0].tolist() == expected
    assert state["cam.weight"][:, 1].tolist() == expected[1:]
    assert torch.equal(state["encoder.weight"], torch.ones(3))
    # The model's own tensors are only read.
    assert torch.equal(own["head.weight"], state_of(ours, 0)["head.weight"])


def test_without_names_nothing_is_taken():
    state = state_of(THEIRS, 100)
    assert match_class_rows(state, state_of(THEIRS, 0), ROWS, None, THEIRS) == []
    assert state.keys() == {"encoder.weight"}


@pytest.mark.parametrize("wrong", [torch.zeros(4, 5), torch.zeros(7, 2)])
def test_rows_of_another_size_are_left_out(wrong):
    state = {**state_of(THEIRS, 100), "head.weight": wrong}
    match_class_rows(state, state_of(THEIRS, 0), ROWS, THEIRS, THEIRS)
    assert state.keys() == {"encoder.weight", "cam.weight"}


def test_dalnet_names_all_its_tensors_with_a_row_for_each_class(tiny_cfg):
    model = make_model(tiny_cfg)
    texts = set(model.rebuilt)
    found = {
        key
        for key, value in model.state_dict().items()
        if value.dim() and len(value) in (10, 11) and not key.startswith("backbone.")
    }
    assert set(model.class_rows) == found - texts
    names = ("background", *reversed(model.class_names[1:]))
    state = {key: torch.rand_like(value) for key, value in model.state_dict().items()}
    before = {key: state[key].clone() for key in model.class_rows}
    assert model.take_class_rows(state, names) == list(model.class_names[1:])
    for key, first in model.class_rows.items():
        rows = before[key][1 - first :].flip(0)
        assert torch.equal(state[key][1 - first :], rows)
    model.load_state_dict(state)

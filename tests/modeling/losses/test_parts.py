# SPDX-License-Identifier: Apache-2.0
"""The parts of a batch divide by common counts, and make once what needs no gradient."""

import pytest
import torch

from dalnet.modeling.losses.counts import Parts, is_first_pass, made_once, shares, total_count


def mean_of(values, across_processes=True):
    """Return the sum of a part's values, divided by the count of all parts."""
    total, number = total_count(torch.tensor(len(values)), across_processes)
    return values.sum() / (total / number)


def losses_in_parts(pieces, across_processes=True):
    parts = Parts(len(pieces))
    for number, piece in enumerate(pieces):
        with parts.counting(number):
            mean_of(piece, across_processes)
    parts.add_up()
    losses = []
    for number, piece in enumerate(pieces):
        with parts.training(number):
            losses.append(mean_of(piece, across_processes))
    return losses


def test_the_mean_over_parts_is_that_of_the_whole():
    values = torch.arange(7.0)
    losses = losses_in_parts([values[:1], values[1:3], values[3:]])
    torch.testing.assert_close(torch.stack(losses).mean(), values.mean())
    own = losses_in_parts([values[:1], values[1:]], across_processes=False)
    assert own == [values[:1].mean(), values[1:].mean()]


def test_without_a_counting_pass_each_part_counts_for_itself():
    parts = Parts(2)
    with parts.training(0):
        assert mean_of(torch.ones(3)) == 1 and shares() == 2
    assert shares() == 1


def test_things_are_made_once_in_a_step_for_each_part():
    parts, made = Parts(2), iter(range(9))

    def run():
        return made_once(lambda: next(made)), made_once(lambda: next(made)), is_first_pass()

    assert run() == (0, 1, True)
    found = []
    for mode in (parts.counting, parts.training):
        for number in range(2):
            with mode(number):
                found.append(run())
        parts.add_up()
    assert found == [(2, 3, True), (4, 5, False), (2, 3, False), (4, 5, False)]


def test_no_gradient_is_kept_while_counting():
    weight, parts = torch.ones(2, requires_grad=True), Parts(1)
    with parts.counting(0):
        assert not mean_of(weight).requires_grad
    with parts.training(0):
        assert mean_of(weight).requires_grad


def test_parts_that_count_different_things_are_refused():
    parts = Parts(2)
    with parts.counting(0):
        mean_of(torch.ones(1))
    with parts.counting(1):
        pass
    with pytest.raises(ValueError, match="argument"):
        parts.add_up()

# SPDX-License-Identifier: Apache-2.0
"""Slots for present classes: there and back, image by image."""

import pytest
import torch

from dalnet.modeling.image_classes import PresentClasses

LABELS = torch.tensor([[0.0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])


def test_slots_are_the_present_classes_in_order():
    present = PresentClasses.of(LABELS)
    assert present.index[0].tolist() == [1, 3]
    assert present.index[1, 0] == 4
    assert present.shown.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert all(len(set(row)) == 2 for row in present.index.tolist())


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(0, 3)])
def test_there_is_at_least_one_slot(labels):
    present = PresentClasses.of(labels)
    assert present.index.shape == (
        len(labels),
        max(int(labels.sum(1).max()) if len(labels) else 0, 1),
    )


def test_selected_maps_come_back_to_their_place_and_the_rest_is_zero():
    present = PresentClasses.of(LABELS)
    maps = torch.rand(3, 5, 2, 3) + 1
    slots = present.select(maps)
    for n, row in enumerate(present.index.tolist()):
        assert torch.equal(slots[n], maps[n, row])
    assert torch.equal(present.spread(slots, 5), maps * LABELS[:, :, None, None])


def test_a_label_map_over_slots_gets_the_classes_names():
    present = PresentClasses.of(LABELS)
    slots = torch.tensor([[[0, 1, 2, 9]], [[1, 0, 9, 1]], [[0, 0, 9, 0]]])
    named = present.name(slots, ignore=9)
    assert named.tolist() == [[[0, 2, 4, 9]], [[5, 0, 9, 5]], [[0, 0, 9, 0]]]

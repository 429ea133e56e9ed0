# SPDX-License-Identifier: Apache-2.0
"""The classes of each image: there and back, image by image."""

import pytest
import torch

from dalnet.modeling.image_classes import ImageClasses, classes_of_labels

LABELS = torch.tensor([[0.0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])


def test_classes_of_one_image():
    assert [classes_of_labels(row) for row in LABELS] == [(1, 3), (4,), ()]
    assert classes_of_labels(None) == ()


def test_local_indices_are_the_shown_classes_in_order():
    classes = ImageClasses.from_labels(LABELS)
    assert classes.index[0].tolist() == [1, 3]
    assert classes.index[1, 0] == 4
    assert classes.valid.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert all(len(set(row)) == 2 for row in classes.index.tolist())


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(0, 3)])
def test_there_is_at_least_one_local_index(labels):
    classes = ImageClasses.from_labels(labels)
    assert classes.index.shape == (
        len(labels),
        max(int(labels.sum(1).max()) if len(labels) else 0, 1),
    )


def test_selected_maps_come_back_to_their_place_and_the_rest_is_zero():
    classes = ImageClasses.from_labels(LABELS)
    maps = torch.rand(3, 5, 2, 3) + 1
    local = classes.gather(maps)
    for n, row in enumerate(classes.index.tolist()):
        assert torch.equal(local[n], maps[n, row])
    assert torch.equal(classes.scatter(local, 5), maps * LABELS[:, :, None, None])


def test_a_label_map_over_local_indices_becomes_one_over_classes():
    classes = ImageClasses.from_labels(LABELS)
    local = torch.tensor([[[0, 1, 2, 9]], [[1, 0, 9, 1]], [[0, 0, 9, 0]]])
    named = classes.to_class_labels(local, ignore=9)
    assert named.tolist() == [[[0, 2, 4, 9]], [[5, 0, 9, 5]], [[0, 0, 9, 0]]]

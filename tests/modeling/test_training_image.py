# SPDX-License-Identifier: Apache-2.0
"""The strip of four pictures that shows a training step."""

import torch

from dalnet.modeling.training_image import draw_training_image


def test_four_pictures_side_by_side():
    image = torch.full((3, 4, 6), 100.0)
    cams = torch.zeros(2, 4, 6)
    cams[1, :2] = 1.0
    label_map = torch.zeros(4, 6, dtype=torch.long)
    label_map[0], label_map[1], label_map[3] = 2, 1, 255
    logits = torch.zeros(4, 2, 3)
    logits[3, :, 0] = 5.0
    strip = draw_training_image(image, cams, label_map, logits)
    assert strip.shape == (3, 4, 24) and strip.dtype == torch.uint8
    plain, cam, label, predicted = strip.chunk(4, dim=2)
    assert (plain == 100).all()
    assert cam[:, 0, 0].tolist() == [255, 0, 0] and (cam[:, 2:] == 100).all()
    # Two classes in two colors; background and ignored pixels as they are.
    assert not torch.equal(label[:, 0], label[:, 1])
    assert (label[:, 2:] == 100).all() and (label[:, 0] != 100).any()
    assert (predicted[:, :, 0] != 100).any() and (predicted[:, :, -1] == 100).all()

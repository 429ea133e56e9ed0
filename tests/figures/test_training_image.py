# SPDX-License-Identifier: Apache-2.0
"""The strip that TensorBoard shows."""

import numpy as np
import torch
from detectron2.utils.events import EventStorage

from dalnet.figures.overlay import blend_labels, draw_heat
from dalnet.figures.training_image import training_strip

COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_four_pictures_stand_side_by_side():
    # Some values lie beyond eight bits.
    image = torch.linspace(-3, 300, 3 * 10 * 14).reshape(3, 10, 14)
    cam = torch.linspace(0, 1, 2 * 10 * 14).reshape(2, 10, 14).requires_grad_()
    pseudo_label = torch.full((10, 14), 255)
    pseudo_label[:, 5:] = 2
    prediction = torch.ones(10, 14, dtype=torch.long)
    strip = training_strip(image, cam, pseudo_label, prediction, COLORS)
    assert (strip.dtype, strip.shape) == (torch.uint8, (3, 10, 56))
    rgb = np.ascontiguousarray(image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    expected = [
        rgb,
        draw_heat(rgb, cam.detach().amax(dim=0).numpy()),
        blend_labels(rgb, pseudo_label.numpy(), COLORS),
        blend_labels(rgb, prediction.numpy(), COLORS),
    ]
    np.testing.assert_array_equal(strip.permute(1, 2, 0).numpy(), np.concatenate(expected, axis=1))
    storage = EventStorage()
    storage.put_image("strip", strip)
    assert storage._vis_data[0][1].shape == (3, 10, 56)

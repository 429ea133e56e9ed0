# SPDX-License-Identifier: Apache-2.0
"""The strip that TensorBoard shows."""

import numpy as np
import torch
from detectron2.utils.events import EventStorage

from dalnet.figures.overlay import blend_labels, draw_cam
from dalnet.figures.training_image import training_strip

COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def make_strip():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 10, 14, generator=rng) * 255
    cam = torch.rand(2, 10, 14, generator=rng)
    pseudo_label = torch.full((10, 14), 255)
    pseudo_label[:, 5:] = 2
    prediction = torch.ones(10, 14, dtype=torch.long)
    parts = (pixels, cam.requires_grad_(), pseudo_label, prediction)
    return parts, training_strip(*parts, COLORS)


def test_four_pictures_stand_side_by_side():
    (pixels, cam, pseudo_label, prediction), strip = make_strip()
    assert strip.dtype == torch.uint8
    assert strip.shape == (3, 10, 56)
    photo = pixels.round().byte().permute(1, 2, 0).numpy()
    expected = [
        photo,
        draw_cam(photo, cam.detach().numpy(), [0, 1]),
        blend_labels(photo, pseudo_label.numpy(), COLORS),
        blend_labels(photo, prediction.numpy(), COLORS),
    ]
    for i, picture in enumerate(expected):
        part = strip[:, :, 14 * i : 14 * (i + 1)].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(part, picture)


def test_event_storage_takes_it():
    _, strip = make_strip()
    storage = EventStorage()
    storage.put_image("strip", strip)
    assert storage._vis_data[0][1].shape == (3, 10, 56)


def test_pixels_beyond_eight_bits_are_clipped():
    pixels = torch.tensor([-3.0, 300.0]).expand(3, 1, 2)
    labels = torch.zeros(1, 2, dtype=torch.long)
    strip = training_strip(pixels, torch.zeros(2, 1, 2), labels, labels, COLORS)
    assert strip[0, 0, :2].tolist() == [0, 255]

# SPDX-License-Identifier: Apache-2.0
"""Large images in overlapping tiles."""

import numpy as np
import pytest
import torch
from helpers import refused

from dalnet import Predictor
from dalnet.prediction.tiles import predict_tiles


@pytest.mark.parametrize("size", [(100, 130), (32, 200), (65, 64)])
def test_tiles_that_agree_give_the_whole(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    shapes = []

    def predict(part):
        shapes.append(part.shape[:2])
        return torch.from_numpy(part.transpose(2, 0, 1).astype(np.float32))

    scores = predict_tiles(predict, pixels, 3, 64)
    assert torch.allclose(scores, torch.from_numpy(pixels.transpose(2, 0, 1)).float(), atol=1e-3)
    assert all(max(shape) <= 64 for shape in shapes) and len(shapes) > 1


def test_seams_are_blended():
    tiles = iter((0.0, 1.0))
    pixels = np.zeros((64, 112, 3), np.uint8)
    scores = predict_tiles(
        lambda part: torch.full((1, *part.shape[:2]), next(tiles)), pixels, 1, 64
    )
    row = scores[0, 32]
    # The tiles share the columns 48 to 63.
    assert (row[:48] == 0).all() and (row[64:] == 1).all()
    steps = row[47:65].diff()
    assert (steps > 0).all() and steps.max() < 0.15


def test_only_large_images_are_cut(voc_model):
    image = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)
    whole, tiled = Predictor(voc_model.weights), Predictor(voc_model.weights, tile=64)
    assert np.array_equal(whole(image[:64, :64]).scores, tiled(image[:64, :64]).scores)
    prediction = tiled(image)
    assert prediction.labels.shape == (72, 96) and prediction.cams == {}
    assert np.allclose(prediction.scores.sum(axis=0), 1, atol=1e-4)
    with refused("tile"):
        Predictor(voc_model.weights, tile=8)

# SPDX-License-Identifier: Apache-2.0
"""Similarity maps of a model: which token is compared with which text, and where it lies."""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from dalnet.errors import UsageError
from dalnet.evaluation.similarity import similarity_maps


def make_model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture
def item():
    """A image of 24 x 40 pixels; 3 x 5 patches."""
    labels = torch.zeros(10)
    labels[[2, 7]] = 1
    pixels = torch.randint(0, 256, (3, 24, 40), generator=torch.Generator().manual_seed(1))
    return {"image": pixels.byte(), "height": 24, "width": 40, "image_labels": labels}


def literal_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_each_patch_lies_in_its_place(tiny_cfg, item):
    model = make_model(tiny_cfg)
    # One pixel a patch: nothing is interpolated.
    maps = similarity_maps(model, item | {"height": 3, "width": 5})
    assert list(maps) == [3, 8, 0]
    with torch.no_grad():
        normalized = (item["image"].float() - model.pixel_mean) / model.pixel_std
        tokens = model.backbone(normalized[None])["patch_tokens"][0]
        texts = {0: model.text_bg[0], 3: model.text_fg[2], 8: model.text_fg[7]}
        for label, text in texts.items():
            text = model.projections.text(text).tolist()
            for row in range(3):
                for column in range(5):
                    patch = model.projections.visual(tokens[:, row, column]).tolist()
                    expected = literal_cosine(patch, text)
                    assert maps[label][row, column] == pytest.approx(expected, abs=1e-5)


def test_maps_have_the_size_of_the_image(tiny_cfg, item):
    model = make_model(tiny_cfg)
    item.update(height=31, width=57)
    for one in similarity_maps(model, item).values():
        assert one.shape == (31, 57)
        assert one.dtype == np.float32
        assert -1 <= one.min() < one.max() <= 1


def test_image_without_labels_has_the_background_only(tiny_cfg, item):
    item["image_labels"].zero_()
    assert list(similarity_maps(make_model(tiny_cfg), item)) == [0]


def test_model_without_alignment_is_refused_in_a_sentence(tiny_cfg, item):
    tiny_cfg.MODEL.DALNET.GIA = tiny_cfg.MODEL.DALNET.LEA = False
    with pytest.raises(UsageError, match="trained without alignment"):
        similarity_maps(make_model(tiny_cfg), item)

# SPDX-License-Identifier: Apache-2.0
"""Shared passes: each once, nothing unasked, and the same maps as from passes of one's own."""

import pytest
import torch
import torch.nn.functional as F

from dalnet.modeling.cam import fuse_raw_cams, multi_scale_cam
from dalnet.modeling.multi_scale import CAMSettings, MultiScaleFlip

SCALES = (1.0, 0.5, 1.5)


class Encoder:
    """Notes (height, batch) of every pass; its tokens know left from right."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append((images.shape[-2], len(images)))
        ramp = torch.linspace(0, 1, images.shape[-1])
        return {"tokens": F.avg_pool2d(images * ramp, 4), "plain": images.mean((2, 3))}


MAPS = {
    "logits": lambda tokens: tokens["tokens"] * 2 - 0.3,
    "raw": lambda tokens: tokens["tokens"][:, :2] - 0.1,
}


def read(source, features):
    return MAPS[source](features)


def make_passes(seed=0, size=(16, 24)):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    encoder = Encoder()
    return MultiScaleFlip(encoder, read, images), encoder, images


def test_every_view_is_encoded_once():
    passes, encoder, _ = make_passes()
    assert encoder.seen == []
    passes.cams("raw", (1.0, 0.5), flip=True)
    assert encoder.seen == [(16, 2), (8, 2)], "image and mirror image go together"
    passes.probabilities("logits", (16, 24), (1.0, 1.5), flip=False)
    assert encoder.seen == [(16, 2), (8, 2), (24, 1)], "the mirror image was not asked for"
    passes.probabilities("logits", (16, 24), (1.5,), flip=True)
    assert encoder.seen == [(16, 2), (8, 2), (24, 1), (24, 1)], "only what was missing"
    passes.cams("raw", (1.0, 0.5, 1.5), flip=True)
    assert len(encoder.seen) == 4


def test_tokens_that_exist_are_not_computed_again():
    passes, encoder, images = make_passes()
    expected = passes.cams("raw", (1.0, 0.5), flip=True)
    tokens = encoder(images.requires_grad_())
    other = MultiScaleFlip(encoder := Encoder(), read, images.detach())
    other.reuse(tokens)
    cams = other.cams("raw", (1.0, 0.5), flip=True)
    assert encoder.seen == [(16, 1), (8, 2)]
    torch.testing.assert_close(cams, expected)
    assert not cams.requires_grad


@pytest.mark.parametrize("scales", [SCALES, (1.0,)])
def test_cams_are_those_of_multi_scale_cam(scales):
    passes, encoder, images = make_passes()
    (expected,) = multi_scale_cam(lambda x: (MAPS["raw"](encoder(x)),), images, scales)
    torch.testing.assert_close(passes.cams("raw", scales, flip=True), expected)
    assert not torch.equal(passes.cams("raw", scales, flip=False), expected)


def test_cams_of_a_size_of_choice_and_of_a_stride():
    settings = CAMSettings(flip="sum", normalize="max")
    images = torch.randn(1, 3, 14, 18, generator=torch.Generator().manual_seed(0))

    def read_scaled(source, features):
        return features["maps"]

    def encode(x):  # [1, 3, H, W] to [1, 2, ceil(H / 4), ceil(W / 4)]
        padded = F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))
        return {"maps": F.avg_pool2d(padded, 4)[:, :2]}

    passes = MultiScaleFlip(encode, read_scaled, images, settings, stride=4)
    views = [passes.views("raw", scale, True) for scale in (1.0, 0.5)]
    cams = passes.cams("raw", (1.0, 0.5), True)
    torch.testing.assert_close(cams, fuse_raw_cams(views, (14, 18), "sum", "max", 4))
    small = passes.cams("raw", (1.0, 0.5), True, size=(4, 5))
    torch.testing.assert_close(small, fuse_raw_cams(views, (4, 5), "sum", "max"))


@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_are_the_softmax_of_the_mean_logits(flip):
    passes, encoder, images = make_passes()
    size, logits = (20, 10), []
    for scale in SCALES:
        height, width = int(scale * 16), int(scale * 24)
        scaled = F.interpolate(images, (height, width), mode="bilinear")
        for mirrored in (False, True)[: 1 + flip]:
            view = scaled.flip(-1) if mirrored else scaled
            one = F.interpolate(MAPS["logits"](encoder(view)), size, mode="bilinear")
            logits.append(one.flip(-1) if mirrored else one)
    expected = torch.stack(logits).mean(0).softmax(1)
    actual = passes.probabilities("logits", size, SCALES, flip)
    # Enlarging and mirroring commute up to rounding.
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_parts_of_a_batch_are_put_together_in_order(monkeypatch):
    asked = [(0.5, True), (1.0, False)]
    whole, _, _ = make_passes()
    expected = [whole.views("raw", scale, flip) for scale, flip in asked]
    monkeypatch.setattr("dalnet.modeling.multi_scale._CPU_PIXELS", 1)
    parted, encoder, _ = make_passes()
    for (scale, flip), views in zip(asked, expected, strict=True):
        for one, other in zip(parted.views("raw", scale, flip), views, strict=True):
            torch.testing.assert_close(one, other)
    assert encoder.seen == [(8, 1), (8, 1), (16, 1)]

# SPDX-License-Identifier: Apache-2.0
"""Every plain transcription of the benchmarks gives what the kernel of dalnet gives."""

import pytest
import torch
from torch import Tensor

from benchmarks.cases import lattice_bounds, value_and_gradient
from benchmarks.compare import relative_l2
from benchmarks.inputs import smooth_cams, smooth_scores, synthetic_images
from benchmarks.plain.bilateral import gaussian_sum, published_lattice
from benchmarks.plain.cam import materialized_attention, published_multi_scale_cam
from benchmarks.plain.dense_crf import published_dense_crf
from benchmarks.plain.dense_energy import published_dense_energy
from benchmarks.plain.par import published_par, published_refine
from benchmarks.plain.patch_contrast import published_patch_contrast
from dalnet.layers import PixelAdaptiveRefinement, bilateral_filter, dense_crf
from dalnet.modeling.backbone.vit import TimmViT
from dalnet.modeling.cam import multi_scale_cam
from dalnet.modeling.heads import CAMClassifier
from dalnet.modeling.losses import dense_energy, patch_token_contrast
from dalnet.modeling.multi_scale import MultiScaleFlip
from dalnet.modeling.pseudo_labels import refine

DTYPES = (torch.float64, torch.float32)
SHAPES = [(2, 3, 13, 17), (1, 1, 9, 8), (1, 81, 7, 11)]
IGNORE = 255
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
    torch.float32: {"rtol": 1e-3, "atol": 1e-4},
}


def photos(n: int, height: int, width: int, flat: bool = False) -> Tensor:
    """In 0..255, float64."""
    if flat:
        return torch.full((n, 3, height, width), 96.0, dtype=torch.float64)
    return synthetic_images(n, height, width).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_par(shape, flat, dtype):
    n, k, height, width = shape
    images = photos(n, height, width, flat).to(dtype) / 255
    masks = smooth_scores(n, k, 6, 7).to(dtype)
    expected = PixelAdaptiveRefinement()(images, masks)
    torch.testing.assert_close(published_par(images, masks), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("classes", [1, 5])
def test_refine(classes):
    """Images with some, all and no classes, in one batch, with padding."""
    images = photos(3, 21, 26).float() / 255
    cams = smooth_cams(3, classes, 21, 26)
    labels = torch.stack([torch.eye(classes)[0], torch.ones(classes), torch.zeros(classes)])
    boxes = torch.tensor([[0, 21, 0, 26], [3, 21, 0, 20], [0, 19, 2, 26]])
    inputs = (images, cams, labels, boxes, 0.3, 0.6)
    expected = refine(PixelAdaptiveRefinement(), *inputs)
    assert expected.unique().numel() > 2
    assert torch.equal(published_refine(published_par, *inputs), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_sum(shape, flat, dtype):
    n, k, height, width = shape
    images, values = photos(n, height, width, flat), smooth_scores(n, k, height, width).to(dtype)
    expected = bilateral_filter(images, values, 15.0, 6.0, method="exact")
    got = gaussian_sum(images, values, 15.0, 6.0)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected.double(), **TOLERANCE[dtype])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_published_lattice(shape, flat):
    """In single precision only, as pydensecrf."""
    pytest.importorskip("pydensecrf")
    n, k, height, width = shape
    images, values = photos(n, height, width, flat).float(), smooth_scores(n, k, height, width)
    got = published_lattice(images, values, 15.0, 6.0, lattice_bounds(images, 15.0, 6.0))
    expected = bilateral_filter(images, values, 15.0, 6.0)
    # Rounding may send a point on the border of two cells to either, which moves a value or two.
    assert relative_l2(expected, got) < 2e-3


@pytest.mark.parametrize("classes", [2, 21])
def test_dense_energy(classes):
    """The value, and of the hand-written gradient what does not depend on the lattice's transpose.

    Where the gate is uniform the loss is quadratic: its scores times its gradient is twice itself.
    """
    pytest.importorskip("pydensecrf")
    images, probs = photos(2, 18, 22).float(), smooth_scores(2, classes, 18, 22).requires_grad_()
    boxes = torch.tensor([[0, 18, 0, 22]] * 2)
    bounds = lattice_bounds(images[..., ::2, ::2], 15.0, 50.0)
    mixed = probs.argmax(dim=1).masked_fill(probs.amax(dim=1) < 0.7, IGNORE)
    for labels in (mixed, torch.full_like(mixed, IGNORE)):
        ours = dense_energy(images, probs, boxes, labels)
        plain = published_dense_energy(images, probs, labels, bounds)
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=0)
    for loss in (ours, plain):
        value, gradient = value_and_gradient(loss, probs)
        torch.testing.assert_close((probs * gradient).sum(), 2 * value, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("classes", "flat"), [(1, False), (4, False), (4, True)])
def test_dense_crf(classes, flat):
    pytest.importorskip("pydensecrf")
    images = photos(2, 23, 30, flat).byte().permute(0, 2, 3, 1)
    probs = smooth_scores(2, classes, 23, 30)
    expected, got = dense_crf(images, probs), published_dense_crf(images, probs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2)
    assert (got.argmax(1) == expected.argmax(1)).double().mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
def test_multi_scale_cam(dtype):
    """Against the function and against the passes of a training step, one of which exists."""
    torch.manual_seed(0)
    encoder = TimmViT(
        name="vit_tiny_patch16_224",
        weights="",
        intermediate_block=1,
        overrides={"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    )
    encoder, head = encoder.to(dtype).eval(), CAMClassifier(24, 3).to(dtype)
    images = photos(2, 40, 32).to(dtype) / 127.5 - 1
    maps = {"cam": lambda tokens: head.cam(tokens["patch_tokens"])}
    scales = (1.0, 0.5, 1.5)

    def raw_cams(views):
        return (maps["cam"](encoder(views)),)

    with materialized_attention(encoder):
        assert not any(block.attn.fused_attn for block in encoder.vit.blocks)
        (got,) = published_multi_scale_cam(raw_cams, images, scales)
    assert all(block.attn.fused_attn for block in encoder.vit.blocks)
    (expected,) = multi_scale_cam(raw_cams, images, scales)
    torch.testing.assert_close(got.float(), expected.float(), rtol=1e-4, atol=1e-4)
    passes = MultiScaleFlip(encoder, lambda name, found: maps[name](found), images)
    with torch.no_grad():
        passes.reuse(encoder(images))
        cams = passes.cams("cam", scales, flip=True)
    torch.testing.assert_close(got.float(), cams.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kinds", [[0], [IGNORE], [0, 1, 2, 80, IGNORE]])
@pytest.mark.parametrize("shape", [(2, 16, 5, 3), (1, 4, 1, 1), (1, 8, 3, 7)])
def test_patch_contrast(shape, kinds, dtype):
    n, width, *grid = shape
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, width, *grid, generator=rng, dtype=dtype, requires_grad=True)
    labels = torch.tensor(kinds)[torch.randint(len(kinds), (n, *grid), generator=rng)]
    plain = published_patch_contrast(tokens, labels)
    (expected,) = torch.autograd.grad(plain, tokens)
    ours = patch_token_contrast(tokens, labels)
    torch.testing.assert_close(plain, ours, **TOLERANCE[dtype])
    # A loss without any pair may be a constant, which has no gradient at all.
    if ours.requires_grad:
        (got,) = torch.autograd.grad(ours, tokens)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    else:
        assert not expected.any()

# SPDX-License-Identifier: Apache-2.0
"""Dense CRF inference against pydensecrf, and its degenerate inputs."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.layers import dense_crf
from dalnet.layers.permutohedral import PermutohedralLattice

# Its name in the package is the function's.
_MODULE = sys.modules["dalnet.layers.dense_crf"]


def _smooth_probs(n: int, k: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Coarse, uncertain class maps, as a segmentation head gives them."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, 5, 6, generator=rng)
    return F.interpolate(logits, (height, width), mode="bilinear").softmax(dim=1)


def _pydensecrf(image: Tensor, probs: Tensor, iters: int, pos: tuple, bi: tuple) -> Tensor:
    """``image`` uint8 [H, W, 3], ``probs`` [K, H, W], pos (w, xy), bi (w, xy, rgb)."""
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    k, height, width = probs.shape
    crf = dcrf.DenseCRF2D(width, height, k)
    unary = -probs.clamp(1e-5, 1).log().reshape(k, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.numpy()))
    crf.addPairwiseGaussian(sxy=pos[1], compat=pos[0])
    crf.addPairwiseBilateral(sxy=bi[1], srgb=bi[2], rgbim=image.contiguous().numpy(), compat=bi[0])
    return torch.from_numpy(np.array(crf.inference(iters))).view(k, height, width)


@pytest.mark.parametrize(
    ("pos", "bi"), [((1.0, 1.0), (4.0, 121.0, 5.0)), ((3.0, 2.5), (10.0, 40.0, 13.0))]
)
def test_agrees_with_pydensecrf(make_pictures, pos, bi):
    images = make_pictures(2, 60, 83).permute(0, 2, 3, 1)
    probs = _smooth_probs(2, 5, 60, 83)
    refined = dense_crf(images, probs, 10, *pos, *bi)
    changed = 0
    for image, prob, got in zip(images, probs, refined, strict=True):
        expected = _pydensecrf(image, prob, 10, pos, bi)
        assert (got.argmax(0) == expected.argmax(0)).double().mean() >= 0.995
        torch.testing.assert_close(got, expected, rtol=0, atol=5e-3)
        changed += (expected.argmax(0) != prob.argmax(0)).sum()
    assert changed > 100  # else the comparison would say nothing


def test_marginals_sum_to_one(make_pictures):
    images = make_pictures(1, 20, 30).permute(0, 2, 3, 1)
    refined = dense_crf(images, _smooth_probs(1, 4, 20, 30))
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(1, 20, 30))


def test_no_iteration_gives_the_probabilities_back(make_pictures):
    images = make_pictures(1, 8, 9).permute(0, 2, 3, 1)
    probs = _smooth_probs(1, 3, 8, 9)
    torch.testing.assert_close(dense_crf(images, probs, iters=0), probs, rtol=1e-4, atol=1e-5)


def test_an_image_does_not_see_its_batch(make_pictures):
    images = make_pictures(3, 16, 21).permute(0, 2, 3, 1)
    probs = _smooth_probs(3, 4, 16, 21)
    together = dense_crf(images, probs, iters=5)
    order = [2, 0, 1]
    torch.testing.assert_close(dense_crf(images[order], probs[order], iters=5), together[order])
    torch.testing.assert_close(dense_crf(images[1:2], probs[1:2], iters=5), together[1:2])


def test_all_images_at_once_as_one_by_one(make_pictures, monkeypatch):
    """What a GPU does, on the CPU."""
    images = make_pictures(3, 16, 21).permute(0, 2, 3, 1)
    probs = _smooth_probs(3, 4, 16, 21)
    one_by_one = dense_crf(images, probs, iters=5)
    built = []
    monkeypatch.setattr(_MODULE, "_images_at_a_time", len)
    monkeypatch.setattr(
        _MODULE,
        "PermutohedralLattice",
        lambda features, **kw: built.append(len(features)) or PermutohedralLattice(features, **kw),
    )
    torch.testing.assert_close(dense_crf(images, probs, iters=5), one_by_one, rtol=0, atol=1e-6)
    assert built == [3, 3]  # positions; positions and colors
    assert dense_crf(images[:0], probs[:0]).shape == (0, 4, 16, 21)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_the_cpu(make_pictures):
    images = make_pictures(3, 40, 51).permute(0, 2, 3, 1)
    probs = _smooth_probs(3, 4, 40, 51)
    got = dense_crf(images.cuda(), probs.cuda()).cpu()
    torch.testing.assert_close(got, dense_crf(images, probs), rtol=0, atol=5e-3)


def test_the_order_of_the_classes_does_not_matter(make_pictures):
    images = make_pictures(1, 16, 21).permute(0, 2, 3, 1)
    probs = _smooth_probs(1, 4, 16, 21)
    refined = dense_crf(images, probs, iters=5)
    torch.testing.assert_close(dense_crf(images, probs.flip(1), iters=5).flip(1), refined)


def test_degenerate_inputs():
    pixel = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    assert dense_crf(pixel, torch.tensor([0.7, 0.3]).view(1, 2, 1, 1))[0, 0].item() > 0.7
    flat = torch.full((1, 7, 9, 3), 90, dtype=torch.uint8)
    certain = torch.zeros(1, 3, 7, 9)
    certain[:, 1] = 1
    assert torch.equal(dense_crf(flat, certain).argmax(1), certain.argmax(1))
    assert dense_crf(flat, torch.ones(1, 1, 7, 9)).allclose(torch.ones(1, 1, 7, 9))


def test_bad_arguments():
    images, probs = torch.zeros(1, 4, 5, 3, dtype=torch.uint8), torch.rand(1, 2, 4, 5)
    with pytest.raises(ValueError, match="uint8"):
        dense_crf(images.float(), probs)
    with pytest.raises(ValueError, match="uint8"):
        dense_crf(images.permute(0, 3, 1, 2), probs)
    with pytest.raises(ValueError, match="number and size"):
        dense_crf(images, probs.transpose(2, 3))
    with pytest.raises(ValueError, match="standard deviation"):
        dense_crf(images, probs, bi_rgb_std=0)

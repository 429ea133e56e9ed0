# SPDX-License-Identifier: Apache-2.0
"""Pixel-adaptive refinement against a loop over pixels in double precision."""

import math

import pytest
import torch
from torch import Tensor

from dalnet.layers import PixelAdaptiveRefinement
from dalnet.layers import par as module


def _softmax(terms: list[float]) -> list[float]:
    top = max(terms)
    powers = [math.exp(t - top) for t in terms]
    return [p / sum(powers) for p in powers]


def _std(numbers: list[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return math.sqrt(sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def _resize_aligned(mask: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, the corners of both grids on top of each other."""

    def sample(y: float, x: float) -> float:
        y0, x0 = min(int(y), len(mask) - 1), min(int(x), len(mask[0]) - 1)
        y1, x1 = min(y0 + 1, len(mask) - 1), min(x0 + 1, len(mask[0]) - 1)
        top = mask[y0][x0] * (1 - (x - x0)) + mask[y0][x1] * (x - x0)
        bottom = mask[y1][x0] * (1 - (x - x0)) + mask[y1][x1] * (x - x0)
        return top * (1 - (y - y0)) + bottom * (y - y0)

    sy = (len(mask) - 1) / (height - 1)
    sx = (len(mask[0]) - 1) / (width - 1)
    return [[sample(y * sy, x * sx) for x in range(width)] for y in range(height)]


def _par_by_loops(
    image: Tensor, mask: Tensor, iters: int, dilations: tuple[int, ...], pamr: bool = False
) -> Tensor:
    """Refine one mask [h, w] by one image [3, H, W], pixel by pixel; by PAMR's rule if ``pamr``."""
    pixels = image.tolist()
    height, width = image.shape[1:]
    offsets = [
        (d * dy, d * dx) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
    ]
    distances = [math.sqrt(dy * dy + dx * dx) for dy, dx in offsets]
    pos_std = _std(distances)
    position = _softmax([-((d / (pos_std + 1e-8) / 0.3) ** 2) for d in distances])

    def at(plane: list[list[float]], y: int, x: int) -> float:
        return plane[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)]

    def weights(y: int, x: int) -> list[float]:
        terms = [0.0] * len(offsets)
        for plane in pixels:
            around = [at(plane, y + dy, x + dx) for dy, dx in offsets]
            if pamr:
                std = _std(around + [plane[y][x]] * len(dilations))
                for i, value in enumerate(around):
                    terms[i] -= abs(plane[y][x] - value) / (1e-8 + 0.1 * std) / len(pixels)
                continue
            std = _std(around)
            for i, value in enumerate(around):
                terms[i] -= (abs(plane[y][x] - value) / (std + 1e-8) / 0.3) ** 2 / len(pixels)
        if pamr:
            return _softmax(terms)
        return [w + 0.01 * p for w, p in zip(_softmax(terms), position, strict=True)]

    kernel = [[weights(y, x) for x in range(width)] for y in range(height)]
    refined = _resize_aligned(mask.tolist(), height, width)
    for _ in range(iters):
        refined = [
            [
                sum(
                    w * at(refined, y + dy, x + dx)
                    for w, (dy, dx) in zip(kernel[y][x], offsets, strict=True)
                )
                for x in range(width)
            ]
            for y in range(height)
        ]
    return torch.tensor(refined, dtype=torch.float64)


@pytest.mark.parametrize("dilations", [(1, 2, 4, 8, 12, 24), (1,), (3, 2)])
def test_equals_the_definition(make_pictures, dilations):
    images = make_pictures(2, 13, 17).double() / 255
    masks = torch.rand(2, 2, 5, 6, dtype=torch.float64)
    refined = PixelAdaptiveRefinement(3, dilations)(images, masks)
    for n in range(2):
        for k in range(2):
            expected = _par_by_loops(images[n], masks[n, k], 3, dilations)
            torch.testing.assert_close(refined[n, k], expected, rtol=1e-10, atol=1e-12)


def test_pamr_equals_its_definition(make_pictures):
    images = make_pictures(1, 9, 11).double() / 255
    masks = torch.rand(1, 2, 5, 6, dtype=torch.float64)
    refined = PixelAdaptiveRefinement.pamr(3, (1, 2, 4))(images, masks)
    for k in range(2):
        expected = _par_by_loops(images[0], masks[0, k], 3, (1, 2, 4), pamr=True)
        torch.testing.assert_close(refined[0, k], expected, rtol=1e-10, atol=1e-12)


def test_pamr_of_a_flat_image_is_the_mean_of_the_neighbors():
    mask = torch.arange(16.0).view(1, 1, 4, 4)
    refined = PixelAdaptiveRefinement.pamr(1, (1,))(torch.full((1, 3, 4, 4), 0.3), mask)
    # The corner's neighbors, beyond the border the nearest pixel: 0 three times, 1, 4 twice, ...
    torch.testing.assert_close(refined[0, 0, 0], torch.tensor([1.875, 2.5, 3.5, 4.125]))


def test_single_precision_is_close_to_double(make_pictures):
    images = make_pictures(1, 40, 50).double() / 255
    masks = torch.rand(1, 3, 10, 12, dtype=torch.float64)
    par = PixelAdaptiveRefinement()
    single = par(images.float(), masks.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), par(images, masks), rtol=1e-3, atol=1e-4)


def test_an_image_does_not_see_its_batch(make_pictures):
    images = make_pictures(3, 30, 34).float() / 255
    masks = torch.rand(3, 2, 30, 34)
    par = PixelAdaptiveRefinement(num_iters=4)
    together = par(images, masks)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(par(images[order], masks[order]), together[order])
    torch.testing.assert_close(par(images[1:2], masks[1:2]), together[1:2])


def test_all_images_at_once_as_one_by_one(make_pictures, monkeypatch):
    """What a GPU does, on the CPU: the same kernels on more rows, so the same numbers."""
    images, masks = make_pictures(3, 30, 34).float() / 255, torch.rand(3, 2, 15, 17)
    par = PixelAdaptiveRefinement(num_iters=4)
    one_by_one = par(images, masks)
    affinities, refined = par._affinity, []
    par._affinity = lambda part: refined.append(len(part)) or affinities(part)
    for at_a_time, parts in ((3, [3]), (2, [2, 1])):
        monkeypatch.setattr(module, "_images_at_a_time", lambda images, n=at_a_time: n)
        torch.testing.assert_close(par(images, masks), one_by_one, rtol=1e-6, atol=1e-7)
        assert refined == parts
        refined.clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_the_cpu(make_pictures):
    images, masks = make_pictures(3, 40, 51).float() / 255, torch.rand(3, 4, 20, 26)
    par = PixelAdaptiveRefinement()
    expected = par(images, masks)
    got = par.cuda()(images.cuda(), masks.cuda()).cpu()
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axis", [2, 3])
def test_mirrored_input_gives_mirrored_output(make_pictures, axis):
    images = make_pictures(1, 20, 31).double() / 255
    masks = torch.rand(1, 2, 20, 31, dtype=torch.float64)
    par = PixelAdaptiveRefinement(num_iters=4)
    mirrored = par(images.flip(axis), masks.flip(axis)).flip(axis)
    torch.testing.assert_close(mirrored, par(images, masks), rtol=1e-9, atol=1e-9)


def test_a_constant_mask_grows_by_the_position_weight_each_time(make_pictures):
    refined = PixelAdaptiveRefinement(num_iters=10)(
        make_pictures(1, 24, 24).double() / 255, torch.ones(1, 1, 24, 24, dtype=torch.float64)
    )
    torch.testing.assert_close(refined, torch.full_like(refined, 1.01**10))


def test_a_flat_image_averages_evenly():
    masks = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    images = torch.full((1, 3, 9, 9), 0.4, dtype=torch.float64)
    refined = PixelAdaptiveRefinement(2, (1, 2))(images, masks)
    torch.testing.assert_close(refined[0, 0], _par_by_loops(images[0], masks[0, 0], 2, (1, 2)))


def test_one_pixel_and_half_precision_are_finite():
    refined = PixelAdaptiveRefinement()(torch.rand(1, 3, 1, 1), torch.rand(1, 1, 1, 1))
    assert torch.isfinite(refined).all()
    half = PixelAdaptiveRefinement()(torch.rand(1, 3, 8, 8).half(), torch.rand(1, 2, 4, 4).half())
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


def test_no_gradient_passes():
    masks = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert not PixelAdaptiveRefinement()(torch.rand(1, 3, 8, 8), masks).requires_grad


def test_bad_arguments():
    with pytest.raises(ValueError, match="dilation"):
        PixelAdaptiveRefinement(dilations=())
    with pytest.raises(ValueError, match="dilation"):
        PixelAdaptiveRefinement(dilations=(0, 1))
    with pytest.raises(ValueError, match="iterations"):
        PixelAdaptiveRefinement(num_iters=-1)
    with pytest.raises(ValueError, match="as many masks"):
        PixelAdaptiveRefinement()(torch.rand(2, 3, 8, 8), torch.rand(1, 1, 8, 8))

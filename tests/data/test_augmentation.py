# SPDX-License-Identifier: Apache-2.0
"""Color changes by OpenCV against torchvision's and SciPy's."""

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import v2

from dalnet.data import augmentation
from dalnet.data.augmentation import adjust_hue, blur, jitter_colors, photometric_chain


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.uniform(-600, 900, (40, 50, 3)), (2, 2, 0))
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.04, 0.1, 0.5])
def test_hue_turns_as_torchvision_turns_it(image, shift):
    got = np.asarray(adjust_hue(image, shift)).astype(int)
    expected = np.asarray(v2.functional.adjust_hue(image, shift)).astype(int)
    # Both round to 256 hues and saturations, in different places.
    assert np.abs(got - expected).mean() < 2
    assert np.abs(got - expected).max() < 24
    if abs(shift) > 0.05:
        assert np.abs(got - np.asarray(image)).mean() > 8


def test_jitter_is_torchvisions(image, monkeypatch):
    # With torchvision's own hue the two must draw and do the same.
    monkeypatch.setattr(augmentation, "adjust_hue", v2.functional.adjust_hue)
    for seed in range(8):
        torch.manual_seed(seed)
        got = jitter_colors(image)
        torch.manual_seed(seed)
        order, *factors = v2_parameters()
        expected = image
        names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
        for index in order.tolist():
            expected = getattr(v2.functional, names[index])(expected, factors[index])
        assert np.array_equal(np.asarray(got), np.asarray(expected))
        low, high = (0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1)
        assert all(a <= f <= b for a, f, b in zip(low, factors, high, strict=True))


def v2_parameters():
    order = torch.randperm(4)
    ranges = ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))
    return order, *(float(torch.empty(1).uniform_(*r)) for r in ranges)


def test_blur_is_gaussian(image):
    for seed in range(8):
        torch.manual_seed(seed)
        got = np.asarray(blur(image)).astype(float)
        torch.manual_seed(seed)
        sigma = torch.empty(1).uniform_(0.1, 2.0).item()
        source = np.asarray(image).astype(float)
        expected = gaussian_filter(source, (sigma, sigma, 0), mode="mirror", truncate=3)
        assert np.abs(got - expected).max() < 2.5
        assert np.abs(got - expected).mean() < 0.6


def test_photometric_chain_blurs_and_solarizes_as_often_as_asked():
    values = np.random.default_rng(0).integers(130, 256, (75, 100, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    seed_all_rng(0)
    assert photometric_chain(False, 1.0)(image) is image

    def roughness(image):
        return np.abs(np.diff(np.asarray(image.convert("L"), dtype=float), axis=1)).mean()

    blurred = [roughness(photometric_chain(True, 1.0)(image)) for _ in range(40)]
    sharp = [roughness(photometric_chain(True, 0.0)(image)) for _ in range(40)]
    assert np.mean(blurred) < 0.6 * np.mean(sharp)
    chain = photometric_chain(True, 0.0, solarize_prob=1.0)
    assert all(np.asarray(chain(image)).max() <= 128 for _ in range(20))
    images = [np.asarray(photometric_chain(True, 0.0)(image)) for _ in range(200)]
    gray = [np.ptp(image, axis=2).max() == 0 for image in images]
    assert 20 < sum(gray) < 62  # 0.2 of 200

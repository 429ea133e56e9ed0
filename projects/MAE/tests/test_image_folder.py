# SPDX-License-Identifier: Apache-2.0
"""Reading images into memory, and the batches of crops."""

import itertools

import numpy as np
import pytest
import torch
from helpers import make_noise, refused
from PIL import Image

from dalnet_mae.image_folder import crop_batches, normalize, read_images


@pytest.fixture
def folder(tmp_path):
    """Five images of 60 x 40 pixels, a broken one and a file of another kind."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        Image.fromarray(make_noise(40, 60, seed=i)).save(
            images / f"p{i}.{'JPG' if i == 4 else 'jpg'}"
        )
    (images / "broken.jpg").write_bytes((images / "p0.jpg").read_bytes()[:200])
    (images / "notes.txt").write_text("p0")
    return images


def test_images_are_shrunk_and_broken_ones_named(folder):
    images, skipped = read_images(folder, None, 36)
    assert [tuple(image.shape) for image in images] == [(3, 36, 54)] * 5
    assert all(image.dtype == torch.uint8 for image in images)
    assert len(skipped) == 1 and "broken.jpg" in skipped[0]
    whole = read_images(folder, None, 256)[0][1]
    pixels = np.array(Image.open(folder / "p1.jpg"))
    assert np.array_equal(whole.permute(1, 2, 0).numpy(), pixels), "small ones stay as they are"


def test_only_listed_images_are_read(folder, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("p3\n\np1\nlost\n")
    (taken, skipped), (everything, _) = (read_images(folder, file, 256) for file in (ids, None))
    expected = [everything[1], everything[3]]
    assert all(torch.equal(a, b) for a, b in zip(taken, expected, strict=True))
    assert len(skipped) == 1 and "lost" in skipped[0]


def test_a_folder_without_a_readable_image_is_refused(folder):
    for path in folder.glob("p*"):
        path.unlink()
    with refused(folder):
        read_images(folder, None, 256)


def test_every_image_comes_once_before_any_comes_twice():
    images = [torch.full((3, 40, 50), 10 * i, dtype=torch.uint8) for i in range(6)]
    batches = list(itertools.islice(crop_batches(images, 32, 3, seed=0), 4))
    assert batches[0].shape == (3, 3, 32, 32) and batches[0].dtype == torch.float32
    red = (torch.cat(batches)[:, 0, 0, 0] * 58.395 + 123.675).round().int().tolist()
    assert sorted(red[:6]) == sorted(red[6:]) == [0, 10, 20, 30, 40, 50] and red[:6] != red[6:]
    later = next(crop_batches(images, 32, 3, seed=0, start=3))[:, 0, 0, 0] * 58.395 + 123.675
    assert later.round().int().tolist() == red[9:]


def test_images_are_normalized_as_dalnet_does_by_default():
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (images.permute(0, 2, 3, 1) - mean) / std
    torch.testing.assert_close(normalize(images).permute(0, 2, 3, 1), expected)

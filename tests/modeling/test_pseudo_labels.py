# SPDX-License-Identifier: Apache-2.0
"""Pseudo labels against a per-image transcription; OpenCV does the reference resizing."""

import cv2
import numpy as np
import pytest
import torch

from dalnet.layers import PixelAdaptiveRefinement
from dalnet.layers import par as par_module
from dalnet.modeling.boxes import token_grid_boxes
from dalnet.modeling.pseudo_labels import local_view_labels, refine

IGNORE = 255


@pytest.fixture
def par():
    return PixelAdaptiveRefinement(num_iters=3, dilations=(1, 2))


@pytest.fixture
def scene():
    """Four images with 2, 1, 0 and 3 of 4 classes; smooth CAMs of random blobs."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(4, 3, 18, 23, generator=generator)
    coarse = torch.rand(4, 4, 4, 5, generator=generator)
    cams = torch.nn.functional.interpolate(coarse, size=(18, 23), mode="bicubic").clamp(0, 1)
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]])
    boxes = torch.tensor([[0, 18, 0, 23], [3, 18, 0, 20], [0, 18, 2, 23], [0, 11, 4, 23]])
    return images, cams, labels, boxes


def resize(maps, height, width):
    return np.stack([cv2.resize(m, (width, height)) for m in maps])


def plain_run(par, image, cams, present, background):
    """Label map [H, W] of one image and one background score."""
    height, width = image.shape[-2:]
    half = (height // 2, width // 2)
    maps = [np.full((height, width), background, np.float32)] + [cams[c] for c in present]
    small = np.exp(resize(maps, *half).astype(np.float64))
    small = small / small.sum(axis=0)
    masks = torch.from_numpy(small.astype(np.float32))[None]
    refined = par(torch.from_numpy(resize(image, *half))[None], masks)[0].numpy()
    best = resize(refined, height, width).argmax(axis=0)
    return np.array([0] + [c + 1 for c in present])[best]


def plain_refine(par, images, cams, labels, boxes, low, high):
    result = np.full((len(images), *images.shape[-2:]), IGNORE)
    for n in range(len(images)):
        image, cam = images[n].numpy(), cams[n].numpy()
        present = [c for c in range(labels.shape[1]) if labels[n, c]]
        by_high = plain_run(par, image, cam, present, high)
        by_low = plain_run(par, image, cam, present, low)
        y0, y1, x0, x1 = boxes[n].tolist()
        for y in range(y0, y1):
            for x in range(x0, x1):
                if by_high[y, x] > 0:
                    result[n, y, x] = by_high[y, x]
                elif by_low[y, x] == 0:
                    result[n, y, x] = 0
    return result


def test_refine_is_the_plain_rule(par, scene):
    result = refine(par, *scene, low=0.35, high=0.65)
    expected = plain_refine(par, *scene, low=0.35, high=0.65)
    assert result.dtype == torch.int64
    assert np.array_equal(result, expected)
    inside = [result[n][slice(*b[:2]), slice(*b[2:])] for n, b in enumerate(scene[3].tolist())]
    assert set(inside[0].unique().tolist()) == {0, 1, 3, IGNORE}
    assert not inside[2].any()


def test_refine_calls_the_refinement_once(par, scene):
    calls = []

    def counting(images, masks):
        calls.append((tuple(images.shape), tuple(masks.shape)))
        return par(images, masks)

    refine(counting, *scene, low=0.35, high=0.65)
    # Background and at most three present classes, twice.
    assert calls == [((4, 3, 9, 11), (4, 8, 9, 11))]


def test_refine_does_not_depend_on_the_batch(par, scene):
    together = refine(par, *scene, low=0.35, high=0.65)
    for n in range(4):
        single = refine(par, *(x[n : n + 1] for x in scene), low=0.35, high=0.65)
        assert torch.equal(single[0], together[n])
    shuffled = refine(par, *(x.flip(0) for x in scene), low=0.35, high=0.65)
    assert torch.equal(shuffled.flip(0), together)


def test_refine_reads_neither_absent_classes_nor_autocast(par, scene):
    images, cams, labels, boxes = scene
    expected = refine(par, *scene, low=0.35, high=0.65)
    noisy = torch.where(labels[:, :, None, None] > 0, cams, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = refine(par, images, noisy, labels, boxes, low=0.35, high=0.65)
    assert torch.equal(result, expected)


def test_refine_without_any_class_is_background_in_the_box(par, scene):
    images, cams, labels, boxes = scene
    result = refine(par, images, cams, torch.zeros_like(labels), boxes, 0.35, 0.65, ignore=9)
    for n, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        expected = torch.full((18, 23), 9)
        expected[y0:y1, x0:x1] = 0
        assert torch.equal(result[n], expected)


def test_a_batch_refined_at_once_has_the_same_label_maps(scene, monkeypatch):
    """What a GPU does, on the CPU."""
    images, cams, labels, boxes = scene
    thresholds = {"low": 0.25, "high": 0.7}
    par = PixelAdaptiveRefinement()
    one_by_one = refine(par, images, cams, labels, boxes, **thresholds)
    monkeypatch.setattr(par_module, "_images_at_a_time", len)
    assert torch.equal(refine(par, images, cams, labels, boxes, **thresholds), one_by_one)


def test_token_grid_boxes_keep_patches_whose_center_is_inside():
    image_size, grid = (32, 48), (4, 6)
    boxes = torch.tensor([[0, 32, 0, 48], [4, 28, 5, 44], [12, 13, 20, 21], [3, 5, 0, 48]])
    result = token_grid_boxes(boxes, image_size, grid)
    for (y0, y1, x0, x1), (r0, r1, c0, c1) in zip(boxes.tolist(), result.tolist(), strict=True):
        assert [r for r in range(4) if y0 <= 8 * r + 4 < y1] == list(range(r0, r1))
        assert [c for c in range(6) if x0 <= 8 * c + 4 < x1] == list(range(c0, c1))


def test_local_view_labels_count_pixels():
    torch.manual_seed(4)
    label_map = torch.randint(0, 4, (2, 12, 15))
    label_map[label_map == 3] = IGNORE
    corner = torch.randint(0, 7, (2, 20, 2))
    side = torch.randint(0, 6, (2, 20, 2))
    end = corner + side
    boxes = torch.stack([corner[..., 0], end[..., 0], corner[..., 1], end[..., 1]], dim=2)
    result = local_view_labels(label_map, boxes, num_classes=4, min_coverage=0.25)
    assert result.shape == (2, 20, 4)
    for n in range(2):
        for view, (y0, y1, x0, x1) in enumerate(boxes[n].tolist()):
            inside = label_map[n, y0:y1, x0:x1]
            for c in range(4):
                count = (inside == c + 1).sum().item()
                expected = count > 0 and count >= 0.25 * inside.numel()
                assert result[n, view, c].item() == float(expected)
    assert 0 < result.mean() < 1


def test_local_view_labels_take_exactly_the_share():
    label_map = torch.zeros(1, 5, 5, dtype=torch.int64)
    label_map[0, 0] = 2
    boxes = torch.tensor([[[0, 5, 0, 5], [1, 5, 0, 5]]])
    assert local_view_labels(label_map, boxes, 2, 0.2).tolist() == [[[0, 1], [0, 0]]]
    assert local_view_labels(label_map, boxes[:, :0], 2, 0.2).shape == (1, 0, 2)

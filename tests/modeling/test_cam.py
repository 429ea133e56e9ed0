# SPDX-License-Identifier: Apache-2.0
"""CAMs against plain loops; OpenCV does the reference resizing."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dalnet.modeling.boxes import box_mask
from dalnet.modeling.cam import (
    cam_probabilities,
    cam_scores,
    cam_to_label,
    fuse_raw_cams,
    multi_scale_cam,
    normalize_cam,
    object_mask,
)
from dalnet.modeling.heads import CAMClassifier


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def test_classifier_pools_then_weighs():
    classifier = CAMClassifier(in_channels=5, num_classes=3)
    tokens = torch.randn(2, 5, 4, 6)
    weight = classifier.linear.weight
    logits, cam = classifier.logits(tokens), classifier.cam(tokens)
    assert [tuple(p.shape) for p in classifier.parameters()] == [(3, 5)]
    for n in range(2):
        pooled = torch.stack([tokens[n, d].max() for d in range(5)])
        torch.testing.assert_close(logits[n], weight @ pooled)
        for y in range(4):
            for x in range(6):
                torch.testing.assert_close(cam[n, :, y, x], weight @ tokens[n, :, y, x])


def test_normalize_cam_is_equation_1():
    raw = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    raw[0, 1] = -raw[0, 1].abs()
    raw[1, 2] = 0
    cam = normalize_cam(raw)
    for n in range(2):
        for c in range(3):
            positive = np.maximum(raw[n, c].numpy(), 0)
            peak = positive.max()
            np.testing.assert_allclose(cam[n, c], positive / peak if peak else positive)
    assert not cam[0, 1].any()
    assert not cam[1, 2].any()


def test_normalize_cam_has_finite_gradient_on_empty_maps():
    raw = (-torch.ones(1, 2, 3, 3)).requires_grad_()
    normalize_cam(raw).sum().backward()
    assert raw.grad.isfinite().all()


def test_object_mask():
    raw = torch.tensor([[[[4.0, 2.0, 1.0, -1.0]], [[0.0, 1.0, 9.0, 10.0]], [[1.0, 9.0, 9.0, 9.0]]]])
    raw = raw.repeat(2, 1, 1, 1).requires_grad_()
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mask = object_mask(raw, labels, 0.5)
    # 2 / 4 is the threshold itself and does not exceed it.
    assert mask.tolist() == [[[1, 0, 1, 1]], [[0, 0, 0, 0]]]
    assert mask.dtype == torch.float32


def raw_maps(images):
    """Return raw CAMs that a flip changes: half size of any sign, third size all positive."""
    slope = torch.linspace(-1, 2, images.shape[-1])
    mixed = images[:, :2] - 0.8 * images[:, 1:] * slope
    return F.avg_pool2d(mixed, 2), F.avg_pool2d(mixed, 3) + 5


def plain_multi_scale(images, scales, which):
    n, _, height, width = images.shape
    result = np.zeros((n, 2, height, width))
    for i in range(n):
        image = images[i].permute(1, 2, 0).numpy()
        for scale in scales:
            scaled = cv2.resize(image, (int(scale * width), int(scale * height)))
            pair = []
            for flipped in (False, True):
                view = scaled[:, ::-1].copy() if flipped else scaled
                raw = raw_maps(torch.from_numpy(view).permute(2, 0, 1)[None])[which][0]
                large = [cv2.resize(m.numpy(), (width, height)) for m in raw]
                pair.append(np.stack([m[:, ::-1] if flipped else m for m in large]))
            result[i] += np.maximum(np.maximum(*pair), 0)
        for c in range(2):
            result[i, c] -= result[i, c].min()
            result[i, c] /= result[i, c].max() + 1e-5
    return result


@pytest.mark.parametrize("scales", [(1.0, 0.5, 1.5), (0.75,)])
def test_multi_scale_cam_is_the_plain_sum(scales):
    images = torch.randn(2, 3, 12, 17)
    seen = []

    def cam_fn(batch):
        assert not torch.is_grad_enabled()
        seen.append(tuple(batch.shape[-2:]))
        return raw_maps(batch)

    cams = multi_scale_cam(cam_fn, images, scales)
    assert seen == [(int(12 * s), int(17 * s)) for s in scales]
    assert len(cams) == 2
    for which, cam in enumerate(cams):
        np.testing.assert_allclose(
            cam, plain_multi_scale(images, scales, which), rtol=1e-4, atol=1e-5
        )
        assert cam.amin() >= 0
        assert cam.amax() <= 1


def test_multi_scale_cam_flips_with_the_image_and_ignores_the_batch():
    images = torch.randn(3, 3, 12, 16)
    (cams, _) = multi_scale_cam(raw_maps, images, (1.0, 0.5))
    (flipped, _) = multi_scale_cam(raw_maps, images.flip(-1), (1.0, 0.5))
    torch.testing.assert_close(flipped.flip(-1), cams)
    (single, _) = multi_scale_cam(raw_maps, images[1:2], (1.0, 0.5))
    torch.testing.assert_close(single, cams[1:2])


def test_multi_scale_cam_without_any_activation_is_zero():
    (cam,) = multi_scale_cam(lambda x: (-x.abs(),), torch.randn(1, 3, 8, 8), (1.0,))
    assert not cam.any()


def test_multi_scale_cam_without_scale_is_refused():
    with pytest.raises(ValueError, match="at least one scale"):
        multi_scale_cam(raw_maps, torch.zeros(1, 3, 8, 8), ())


def test_box_mask():
    boxes = torch.tensor([[1, 3, 0, 2], [0, 0, 0, 4], [0, 3, 3, 4]])
    mask = box_mask(boxes, 3, 4)
    for n, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        expected = torch.zeros(3, 4, dtype=torch.bool)
        expected[y0:y1, x0:x1] = True
        assert torch.equal(mask[n], expected)


def plain_label(cams, labels, boxes, low, high, ignore):
    n, c, height, width = cams.shape
    result = np.full((n, height, width), ignore)
    for i in range(n):
        y0, y1, x0, x1 = boxes[i].tolist()
        for y in range(y0, y1):
            for x in range(x0, x1):
                best, value = 0, 0.0
                for k in range(c):
                    if labels[i, k] and cams[i, k, y, x] > value:
                        best, value = k + 1, cams[i, k, y, x].item()
                if value > high:
                    result[i, y, x] = best
                elif value <= low:
                    result[i, y, x] = 0
    return result


def test_cam_to_label_is_the_plain_rule():
    # Multiples of 1/8 hit both thresholds exactly.
    cams = torch.randint(0, 9, (3, 4, 6, 7)) / 8
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    boxes = torch.tensor([[0, 6, 0, 7], [1, 5, 2, 7], [3, 6, 0, 1]])
    result = cam_to_label(cams, labels, boxes, 0.25, 0.625, ignore=99)
    assert result.dtype == torch.int64
    assert np.array_equal(result, plain_label(cams, labels, boxes, 0.25, 0.625, 99))
    # The random CAMs have led to every possible label.
    assert set(result.unique().tolist()) == {0, 1, 3, 4, 99}


def test_cam_scores_arg_max_is_the_label_map():
    cams = torch.randint(0, 9, (3, 4, 6, 7)) / 8
    labels, boxes = torch.ones(3, 4), torch.tensor([[0, 6, 0, 7]] * 3)
    for threshold in (0.0, 0.5):
        expected = cam_to_label(cams, labels, boxes, threshold, threshold)
        for one, label_map in zip(cams, expected, strict=True):
            scores = cam_scores(one, threshold)
            assert scores.shape == (5, 6, 7)
            assert torch.equal(scores.argmax(dim=0), label_map)
    assert cam_scores(torch.zeros(0, 2, 3), 0.5).tolist() == [[[0.5] * 3] * 2]


@pytest.mark.parametrize("flip", ["max", "sum"])
@pytest.mark.parametrize("normalize", ["min_max", "max"])
def test_fusing_is_the_plain_formula(flip, normalize):
    """ToCo takes the maximum of the two and subtracts the minimum; CLIMS adds, and keeps it."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(1, 2, 3, 4, generator=generator) + 1 for _ in range(4)]
    fused = fuse_raw_cams([views[:2], views[2:]], (3, 4), flip, normalize)
    total = torch.zeros(1, 2, 3, 4)
    for one, other in (views[:2], views[2:]):
        one, other = one.clamp(min=0), other.clamp(min=0)
        total += one + other if flip == "sum" else torch.maximum(one, other)
    for cam, plain in zip(fused[0], total[0], strict=True):
        low = plain.min() if normalize == "min_max" else 0.0
        torch.testing.assert_close(cam, (plain - low) / ((plain - low).max() + 1e-5))


@pytest.mark.parametrize("flip", ["max", "sum"])
@pytest.mark.parametrize("stride", [1, 16])
def test_maps_are_rectified_and_enlarged_in_the_published_order(flip, stride):
    """The maps of a CNN reach over the image's end: 3 x 4 places of 16 pixels over 45 x 62."""
    generator = torch.Generator().manual_seed(1)
    scales = [
        [torch.randn(1, 2, *size, generator=generator) for _ in range(2)]
        for size in ((3, 4), (2, 2), (5, 6))
    ]
    size = (45, 62)

    def enlarge(maps):
        grid = (48, 64) if stride == 16 else size
        return F.interpolate(maps, grid, mode="bilinear", align_corners=False)[..., :45, :62]

    total = torch.zeros(1, 2, *size)
    for plain, flipped in scales:
        if flip == "sum":
            total += enlarge(plain.relu() + flipped.relu())
        else:
            total += torch.maximum(enlarge(plain), enlarge(flipped)).relu()
    expected = total / (total.amax((2, 3), keepdim=True) + 1e-5)
    fused = fuse_raw_cams(scales, size, flip, "max", stride)
    torch.testing.assert_close(fused, expected)
    # The order makes a difference.
    other = fuse_raw_cams(scales, size, {"max": "sum", "sum": "max"}[flip], "max", stride)
    assert (fused - other).abs().max() > 0.05


def test_cam_probabilities_sum_to_one_where_anything_scores():
    cams = torch.tensor([[[0.0, 0.3]], [[0.0, 0.1]]])
    with_background = cam_probabilities(cams, 0.4)
    torch.testing.assert_close(with_background[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(with_background[:, 0, 1], torch.tensor([0.5, 0.375, 0.125]))
    without = cam_probabilities(cams, 0.0)
    torch.testing.assert_close(without[:, 0, 0], torch.zeros(3))
    torch.testing.assert_close(without[:, 0, 1], torch.tensor([0.0, 0.75, 0.25]))


@st.composite
def labeled_cams(draw):
    """CAMs of two images, their labels, boxes and two thresholds."""
    classes, height, width = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 8)),
        draw(st.integers(1, 8)),
    )
    seed, quantum = draw(st.integers(0, 99)), draw(st.sampled_from([1, 4, 255]))
    cams = torch.rand(2, classes, height, width, generator=torch.Generator().manual_seed(seed))
    cams = (cams * quantum).round() / quantum  # with ties, and values at the thresholds
    labels = torch.tensor(
        draw(
            st.lists(
                st.lists(st.sampled_from([0.0, 1.0]), min_size=classes, max_size=classes),
                min_size=2,
                max_size=2,
            )
        )
    )
    boxes = [
        [
            *sorted(draw(st.tuples(*[st.integers(0, height)] * 2))),
            *sorted(draw(st.tuples(*[st.integers(0, width)] * 2))),
        ]
        for _ in range(2)
    ]
    low, high = sorted(
        draw(st.tuples(st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.25, 0.5, 1.0])))
    )
    return cams, labels, torch.tensor(boxes), low, high


@settings(max_examples=80, deadline=None)
@given(labeled_cams())
def test_label_maps_of_any_cams(case):
    cams, labels, boxes, low, high = case
    label_map = cam_to_label(cams, labels, boxes, low, high)
    inside = box_mask(boxes, *cams.shape[-2:])
    assert (label_map[~inside] == 255).all()
    for number, image in enumerate(label_map):
        shown = {i + 1 for i in range(labels.shape[1]) if labels[number, i]}
        assert {*image.unique().tolist()} <= shown | {0, 255}
        (alone,) = cam_to_label(
            cams[number, None], labels[number, None], boxes[number, None], low, high
        )
        assert torch.equal(alone, image)
    # A higher threshold turns classes into ignored pixels, and nothing else.
    stricter = cam_to_label(cams, labels, boxes, low, 2.0)
    changed = stricter != label_map
    assert (stricter[changed] == 255).all() and (label_map[changed] > 0).all()
    best = (cams * labels[:, :, None, None]).amax(1)
    assert torch.equal(label_map == 0, inside & (best <= low))

# SPDX-License-Identifier: Apache-2.0
"""ToCo's local crops: regions, centers, labels, pixels."""

import pytest
import torch

from dalnet_toco.uncertain_crops import (
    UncertainCrops,
    cut_crops,
    draw_crops,
    region_map,
    show_objects,
)


def test_regions_by_the_largest_cam_of_a_present_class():
    cams = torch.tensor([[0.0, 0.25, 0.26, 0.69, 0.7, 0.1], [0.9, 0.9, 0.9, 0.9, 0.9, 0.71]])
    cams = cams.view(1, 2, 1, 6)
    first = region_map(cams, torch.tensor([[1.0, 0.0]]), 0.25, 0.7)
    assert first.flatten().tolist() == [0, 0, 1, 1, 2, 0]
    both = region_map(cams, torch.tensor([[1.0, 1.0]]), 0.25, 0.7)
    assert both.flatten().tolist() == [2] * 6
    none = region_map(cams, torch.zeros(1, 2), 0.25, 0.7)
    assert not none.any()


@pytest.mark.parametrize("size", [4, 5])
def test_centers_are_drawn_without_replacement_outside_sure_objects(size):
    torch.manual_seed(0)
    regions = torch.full((2, 9, 12), 2.0)
    # Eight places in the first image, two of them too near the border; too few in the second.
    allowed = [(3, 4), (3, 5), (4, 4), (5, 8), (4, 9), (6, 6), (0, 5), (4, 0)]
    for k, (y, x) in enumerate(allowed):
        regions[0, y, x] = k % 2
    regions[1, 4, 4] = 0.0
    inside = {(y, x) for y, x in allowed[:6]}
    seen = set()
    for _ in range(40):
        corners = draw_crops(regions, 3, size)
        assert corners.shape == (2, 3, 2)
        centers = [[tuple(c) for c in image] for image in (corners + size // 2).tolist()]
        assert all(len(set(image)) == 3 for image in centers)
        assert set(centers[0]) <= inside
        seen.update(centers[0])
        assert corners.min() >= 0
        assert ((corners + size) <= torch.tensor([9, 12])).all()
    assert seen == inside


def test_places_are_equally_likely():
    torch.manual_seed(0)
    corners = torch.stack([draw_crops(torch.zeros(1, 6, 5), 2, 4)[0] for _ in range(3000)])
    # 3 x 2 places, two of them at a time.
    counts = torch.bincount((corners[..., 0] * 2 + corners[..., 1]).flatten(), minlength=6)
    assert len(counts) == 6
    assert (counts - 1000).abs().max() < 130  # five standard deviations


def test_all_places_may_be_wanted():
    corners = draw_crops(torch.full((1, 4, 5), 2.0), 2, 4)
    assert sorted(corners[0].tolist()) == [[0, 0], [0, 1]]


def test_crops_are_the_pixels_at_their_corners():
    images = torch.arange(2 * 3 * 7 * 8).float().view(2, 3, 7, 8)
    corners = torch.tensor([[[0, 0], [3, 4]], [[2, 1], [1, 3]]])
    crops = cut_crops(images, corners, 4)
    assert crops.shape == (2, 2, 3, 4, 4)
    for n in range(2):
        for k, (top, left) in enumerate(corners[n].tolist()):
            assert torch.equal(crops[n, k], images[n, :, top : top + 4, left : left + 4])


def test_a_crop_of_sure_background_is_negative():
    regions = torch.zeros(1, 4, 12)
    regions[0, 0, :3] = 1.0  # 3 of 16 pixels: a mean of 0.1875
    regions[0, :2, 4:6] = 1.0  # 4 of 16: 0.25
    regions[0, :2, 8:9] = 2.0  # 2 of 16: 0.25
    corners = torch.tensor([[[0, 0], [0, 4], [0, 8]]])
    assert show_objects(regions, corners, 4, 0.2).tolist() == [[False, True, True]]
    assert show_objects(regions, corners, 4, 0.25).tolist() == [[False, False, False]]


def test_all_together():
    torch.manual_seed(0)
    cams = torch.zeros(1, 1, 16, 16)
    cams[:, :, :, 8:] = 0.9
    source = torch.rand(1, 3, 16, 16)
    crops, positive = UncertainCrops(5, 4, 0.25, 0.7, 0.2)(source, cams, torch.ones(1, 1))
    assert crops.shape == (1, 5, 3, 4, 4)
    places = [
        (source[0].unfold(1, 4, 1).unfold(2, 4, 1) == crop[:, None, None])
        .all(dim=(0, 3, 4))
        .nonzero()
        for crop in crops[0]
    ]
    for place, shows in zip(places, positive[0].tolist(), strict=True):
        left = place[0, 1].item()
        # Centers in the left half; up to 5 the crop ends before column 9.
        assert left <= 5
        assert shows == (left + 4 > 8)

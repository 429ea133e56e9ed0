# SPDX-License-Identifier: Apache-2.0
"""Training views: boxes that point at the right pixels, order of operations, seeds."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.env import seed_all_rng
from helpers import refused
from PIL import Image

from dalnet.config import add_dalnet_config
from dalnet.data.views import MultiCropViews, SingleView

CROP = (64, 96)


def make_cfg(*options):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_list(["INPUT.CROP.SIZE", list(CROP), *options])
    return cfg


@pytest.fixture
def noise():
    """An image in which every pixel differs from the padding."""
    return np.random.default_rng(0).integers(130, 256, (75, 100, 3), dtype=np.uint8)


@pytest.fixture
def ramp():
    """An image whose red value is 2x and green value 2y: a pixel knows where it is from."""
    y, x = np.mgrid[0:80, 0:120]
    return np.stack([2 * x, 2 * y, np.full_like(x, 200)], axis=2).astype(np.uint8)


def test_further_views_may_be_switched_off(noise):
    off = ("INPUT.MULTI_CROP.GLOBAL_VIEWS", 1, "INPUT.MULTI_CROP.LOCAL_VIEWS", 0)
    out = MultiCropViews(make_cfg(*off))(noise)
    assert out["global_views"].shape == (0, 3, *CROP)
    assert out["local_views"].shape == (0, 3, 96, 96)
    assert out["local_boxes"].shape == (0, 4) and out["local_boxes"].dtype == torch.int64
    with refused("INPUT.MULTI_CROP.GLOBAL_VIEWS"):
        MultiCropViews(make_cfg("INPUT.MULTI_CROP.GLOBAL_VIEWS", 3))


@pytest.mark.parametrize("photometric", [True, False])
def test_single_view_is_the_main_view_alone(noise, photometric):
    cfg = make_cfg("INPUT.PHOTOMETRIC", photometric)
    outs = []
    for views in (SingleView, MultiCropViews):
        seed_all_rng(3)
        outs.append(views(cfg)(noise))
    assert outs[0].keys() == {"image", "image_box"}
    assert all(torch.equal(outs[0][key], outs[1][key]) for key in outs[0])


def test_image_box_separates_image_and_padding(noise):
    views = MultiCropViews(make_cfg("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]))
    padding = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None]
    corners = set()
    for seed in range(30):
        seed_all_rng(seed)
        out = views(noise)
        y0, y1, x0, x1 = out["image_box"].tolist()
        outside = torch.ones(CROP, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        # The box is exact: colors may be altered inside, so only its outside is compared.
        assert (out["image"][:, outside] == padding).all()
        assert (out["image"][:, ~outside] != padding).any(0).float().mean() > 0.9
        corners.add((y0, x0))
        for box in out["local_boxes"].tolist():
            assert y0 <= box[0] < box[1] <= y1 and x0 <= box[2] < box[3] <= x1
    assert len(corners) > 5  # the image's place in the padding is random


def test_rescaling_keeps_the_aspect_and_covers_the_range(noise):
    # A crop that holds everything shows the rescaled size in the box.
    cfg = make_cfg("INPUT.RESCALE_RANGE", (0.5, 1.5), "INPUT.CROP.SIZE", [160, 160])
    views, factors = MultiCropViews(cfg), []
    for seed in range(60):
        seed_all_rng(seed)
        y0, y1, x0, x1 = views(noise)["image_box"].tolist()
        assert abs((y1 - y0) / 75 - (x1 - x0) / 100) < 0.02
        factors.append((x1 - x0) / 100)
    assert 0.5 <= min(factors) < 0.6 and 1.4 < max(factors) <= 1.5
    assert 0.85 < np.mean(factors) < 1.15


def test_the_longer_side_is_drawn_from_a_range(noise):
    cfg = make_cfg("INPUT.LONGER_SIDE_RANGE", (50, 53), "INPUT.CROP.SIZE", [80, 80])
    views, seen = MultiCropViews(cfg), set()
    for image in (noise, np.ascontiguousarray(noise.transpose(1, 0, 2))):  # 75 x 100, 100 x 75
        for seed in range(20):
            seed_all_rng(seed)
            y0, y1, x0, x1 = views(image)["image_box"].tolist()
            long, short = max(y1 - y0, x1 - x0), min(y1 - y0, x1 - x0)
            assert (x1 - x0 > y1 - y0) == (image is noise)
            assert short == round(0.75 * long)
            seen.add(long)
    assert seen == {50, 51, 52, 53}


def test_the_longer_side_is_resized_bicubically(noise):
    options = ("INPUT.LONGER_SIDE_RANGE", (50, 50), "INPUT.CROP.SIZE", [38, 50])
    views = MultiCropViews(make_cfg(*options, "INPUT.PHOTOMETRIC", False))
    bicubic, bilinear = (
        np.asarray(Image.fromarray(noise).resize((50, 38), resampling)).transpose(2, 0, 1)
        for resampling in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
    )
    shown = views(noise)["image"].numpy()
    assert any(np.array_equal(shown, view) for view in (bicubic, bicubic[..., ::-1]))
    assert not np.array_equal(bicubic, bilinear)


def test_local_boxes_point_at_what_the_view_shows(ramp):
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.MULTI_CROP.LOCAL_SIZE", 32)
    views = MultiCropViews(make_cfg(*options))
    flips = 0
    for seed in range(10):
        seed_all_rng(seed)
        out = views(ramp)
        main = out["image"].float()
        for view, (y0, y1, x0, x1) in zip(
            out["local_views"].float(), out["local_boxes"].tolist(), strict=True
        ):
            box = main[:, y0:y1, x0:x1]
            assert (box.mean((1, 2)) - view.mean((1, 2))).abs().max() < 4
            # Left and right edges: in the same or in flipped order.
            edges = torch.stack([box[0, :, 0].mean(), box[0, :, -1].mean()])
            seen = torch.stack([view[0, :, 0].mean(), view[0, :, -1].mean()])
            flipped = (edges.diff() * seen.diff()).item() < 0
            assert (edges.flip(0) if flipped else edges).sub(seen).abs().max() < 10
            flips += flipped
    assert 20 < flips < 60  # half of 80


def test_flip_none_flips_no_view(ramp):
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.RANDOM_FLIP", "none")
    make_views = MultiCropViews(make_cfg(*options))
    for seed in range(10):
        seed_all_rng(seed)
        out = make_views(ramp)
        y0, y1, x0, x1 = out["image_box"].tolist()
        views = [out["image"][None, :, y0:y1, x0:x1], out["global_views"], out["local_views"]]
        for view in views:
            red = view[:, 0].float().mean(1)
            assert (red[:, -1] > red[:, 0]).all()


def test_second_global_view_comes_from_the_whole_image(ramp):
    # Enlarged twice, the main view shows a quarter at most; the second one reaches further.
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.RESCALE_RANGE", (2.0, 2.0))
    views = MultiCropViews(make_cfg(*options))
    for seed in range(5):
        seed_all_rng(seed)
        out = views(ramp)
        main, other = (v[0].float().mean(0) for v in (out["image"], out["global_views"][0]))
        assert main.max() - main.min() < 100 < other.max() - other.min()


def test_second_global_view_keeps_proportions_of_the_crop(ramp):
    # A crop three times as wide as high, from regions 9/4 to 4 times as wide as high.
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.CROP.SIZE", [32, 96])
    cfg = make_cfg(*options, "INPUT.MULTI_CROP.GLOBAL_SCALE", (0.3, 0.3))
    views = MultiCropViews(cfg)
    for seed in range(8):
        seed_all_rng(seed)
        red, green, _ = views(ramp)["global_views"][0].float()
        width, height = red.mean(0), green.mean(1)
        extent = (width.max() - width.min()) / (height.max() - height.min())
        assert 2.1 < extent < 4.4


def test_main_view_is_altered_before_padding_and_always_blurred(noise):
    def roughness(photometric):
        options = ("INPUT.PHOTOMETRIC", photometric, "INPUT.RESCALE_RANGE", (1.0, 1.0))
        views = MultiCropViews(make_cfg(*options, "INPUT.CROP.SIZE", [75, 100]))
        images = [views(noise)["image"].float() for _ in range(20)]
        return torch.stack(images).mean(1).diff(dim=2).abs().mean()

    seed_all_rng(0)
    assert roughness(True) < 0.6 * roughness(False)


def test_same_seed_same_views_other_seed_other_views(noise):
    views = MultiCropViews(make_cfg())
    outs = []
    for seed in (7, 7, 8):
        seed_all_rng(seed)
        outs.append(views(noise))
    keys = ("image", "image_box", "global_views", "local_views", "local_boxes")
    assert all(torch.equal(outs[0][k], outs[1][k]) for k in keys)
    assert not any(torch.equal(outs[0][k], outs[2][k]) for k in keys if k != "image_box")


def test_one_pixel_image_still_gives_all_views():
    dot = np.full((1, 1, 3), 9, dtype=np.uint8)
    out = MultiCropViews(make_cfg())(dot)
    assert out["local_views"].shape == (8, 3, 96, 96)
    boxes = out["local_boxes"]
    assert (boxes[:, 1] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 2]).all()


def test_label_map_is_cut_as_the_image():
    view = SingleView(make_cfg("INPUT.PHOTOMETRIC", False))
    label_map = np.zeros((40, 56), np.uint8)
    label_map[8:25, 10:50], label_map[20:38, 5:20] = 1, 2
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    np.random.seed(0)
    for _ in range(20):
        made = view(colors[label_map], label_map)
        y0, y1, x0, x1 = made["image_box"].tolist()
        shown = made["image"][:, y0:y1, x0:x1].permute(1, 2, 0).numpy().astype(int)
        # The nearest of the three colors: resizing blurs edges of the image, not of the label map.
        nearest = ((shown[..., None, :] - colors) ** 2).sum(-1).argmin(-1)
        found = made["label_map"]
        assert (found[y0:y1, x0:x1].numpy() == nearest).mean() > 0.9
        outside = torch.ones_like(found, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        assert (found[outside] == 255).all()


def test_views_do_not_depend_on_a_label_map():
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    made = []
    for label_map in (None, np.zeros((40, 56), np.uint8)):
        np.random.seed(0)
        torch.manual_seed(0)
        made.append(MultiCropViews(make_cfg())(image, label_map))
    assert made[1].pop("label_map").shape == made[0]["image"].shape[1:]
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0] | made[1])

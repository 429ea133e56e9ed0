# SPDX-License-Identifier: Apache-2.0
"""ToCo's views: the main view twice."""

import torch
from detectron2.utils.env import seed_all_rng
from helpers import config_with, make_noise

from dalnet_toco.mapper import ToCoViews

CROP = (64, 96)


def test_local_source_is_the_main_view_in_other_colors():
    crop, noise = ("INPUT.CROP.SIZE", list(CROP)), make_noise()
    plain = ToCoViews(config_with(*crop, "INPUT.PHOTOMETRIC", False))
    for seed in range(5):
        seed_all_rng(seed)
        out = plain(noise)
        assert torch.equal(out["local_source"], out["image"])
    altered = ToCoViews(config_with(*crop))(noise)
    source, image, (y0, y1, x0, x1) = (
        altered[key] for key in ("local_source", "image", "image_box")
    )
    assert source.shape == image.shape and source.dtype == torch.uint8
    outside = torch.ones(CROP, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    assert torch.equal(source[:, outside], image[:, outside])
    assert (source != image).any()
    assert altered["global_views"].shape == (1, 3, *CROP)

# SPDX-License-Identifier: Apache-2.0
"""ToCo's views: the main view twice."""

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.utils.env import seed_all_rng

from dalnet.config import add_dalnet_config
from dalnet_toco.mapper import ToCoViews

CROP = (64, 96)


def make_cfg(*options):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_list(["INPUT.CROP.SIZE", list(CROP), *options])
    return cfg


def test_local_source_is_the_main_view_in_other_colors():
    noise = np.random.default_rng(0).integers(130, 256, (75, 100, 3), dtype=np.uint8)
    plain = ToCoViews(make_cfg("INPUT.PHOTOMETRIC", False))
    for seed in range(5):
        seed_all_rng(seed)
        out = plain(noise)
        assert torch.equal(out["local_source"], out["image"])
    altered = ToCoViews(make_cfg())(noise)
    source, image, (y0, y1, x0, x1) = (
        altered[key] for key in ("local_source", "image", "image_box")
    )
    assert source.shape == image.shape and source.dtype == torch.uint8
    outside = torch.ones(CROP, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    assert torch.equal(source[:, outside], image[:, outside])
    assert (source != image).any()
    assert altered["global_views"].shape == (1, 3, *CROP)

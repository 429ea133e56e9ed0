# SPDX-License-Identifier: Apache-2.0
"""CLIMS on the CPU, for the toy classes: a tiny CNN, and a CLIP of random weights on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_voc_tree
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import nn

import clims  # noqa: F401  registers
from dalnet.data.datasets import register_voc_layout
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.data.datasets.toy.scenes import draw_scene


@pytest.fixture(scope="session")
def random_clip() -> CLIP:
    """Both towers, with embeddings of 24 numbers that differ from text to text."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=16, width=64, heads=1, layers=1)
    model = CLIP(24, vision, text).eval()
    for name, parameter in model.named_parameters():
        if "ln_" not in name:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="session")
def clip_file(random_clip, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file(random_clip.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def toy_split(tmp_path_factory) -> str:
    """A registered data set of eight images of the toy world."""
    root, name = tmp_path_factory.mktemp("toy"), "clims_toy_val"
    rng = np.random.default_rng(0)
    images, masks = zip(*(draw_scene(rng) for _ in range(8)), strict=True)
    tags = [[TOY_CLASSES[value - 1] for value in np.unique(mask) if value] for mask in masks]
    write_voc_tree(root, images, masks, tags)
    register_voc_layout(name, root, TOY_CLASSES, split="val")
    return name


@pytest.fixture
def stage0_cfg(tiny_cfg):
    """Stage 0: an image classifier."""
    tiny_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "CAMBaseline", "MODEL.BACKBONE.NAME", "TimmCNN"),
            *("MODEL.CNN.NAME", "test_resnet", "MODEL.CNN.WEIGHTS", "", "MODEL.CNN.STRIDE", 8),
            *("MODEL.CNN.NORM", "FixedBN", "MODEL.CAM.FLIP", "sum", "MODEL.CAM.NORMALIZE", "max"),
            *("MODEL.CAM.BACKGROUND_THRESHOLD", 0.3, "INPUT.DATASET_MAPPER_NAME"),
            *("SingleViewMapper", "INPUT.MULTI_CROP.LOCAL_VIEWS", 0, "INPUT.CROP.SIZE", [64, 64]),
            *("INPUT.MIN_SIZE_TEST", 0, "SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 1e-4),
            *("SOLVER.BASE_LR", 0.01, "SOLVER.WARMUP_ITERS", 0),
        ]
    )
    return tiny_cfg


@pytest.fixture
def clims_cfg(stage0_cfg, clip_file):
    """Stage 1, from random weights."""
    stage0_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "CLIMS", "MODEL.CNN.NORM", "BN"),
            *("MODEL.CLIMS.TEXTS", "toy", "MODEL.CLIP.SOURCE", "tower"),
            *("MODEL.CLIP.WEIGHTS", str(clip_file), "MODEL.CLIP.TEMPLATE", "a photo of {}."),
        ]
    )
    return stage0_cfg

# SPDX-License-Identifier: Apache-2.0
"""A trained model, if a tiny one, as a checkpoint that holds its config; and images for it."""

import pytest
import torch
from detectron2.modeling import build_model

from dalnet.checkpoint import Checkpointer, CheckpointInfo


@pytest.fixture
def checkpoint(tiny_cfg, tmp_path):
    """A checkpoint of a tiny network whose labels vary."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    # What its training started from is not here.
    tiny_cfg.MODEL.VIT.WEIGHTS, tiny_cfg.MODEL.CLIP.SOURCE = "timm", "tower"
    folder = tmp_path / "run"
    Checkpointer(model, str(folder), info=CheckpointInfo.of_training(tiny_cfg)).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture
def make_image():
    """Makes a smooth image, uint8 [H, W, 3]."""

    def make(height, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        large = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        return (255 * large[0]).byte().permute(1, 2, 0).numpy().copy()

    return make

# SPDX-License-Identifier: Apache-2.0
"""Models and checkpoints of the tiny config."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model

from dalnet.checkpoint import (
    Checkpointer,
    CheckpointInfo,
)


@pytest.fixture
def make(tiny_cfg):
    """Builds models of the tiny config with changed keys, from weights of their own."""

    def build(seed, *options):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list(list(options))
        torch.manual_seed(seed)
        return build_model(cfg)

    return build


@pytest.fixture
def saved(tmp_path):
    def save(model):
        Checkpointer(model, str(tmp_path)).save("model")
        return str(tmp_path / "model.pth")

    return save


@pytest.fixture
def info_of():
    """Describe a checkpoint of a config, with changes."""

    def describe(cfg, **changes):
        return dataclasses.replace(CheckpointInfo.of_training(cfg), **changes)

    return describe

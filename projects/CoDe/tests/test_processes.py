# SPDX-License-Identifier: Apache-2.0
"""Two processes train as one that has the captioned images of both."""

import pytest
import torch
from helpers import assert_split_changes_nothing

from codeseg import model
from codeseg.loader import build_caption_loader

IMAGES, NOUNS = 4, 2


def fix_noise(rank, world_size):
    """Let an image's hard masks be drawn from the same numbers in any process."""

    def noise(own):  # [M, h, w], M pairs by noun, then by image
        generator = torch.Generator().manual_seed(0)
        numbers = torch.rand(NOUNS, IMAGES, *own.shape[1:], generator=generator)
        count = IMAGES // world_size
        return numbers[:, rank * count : (rank + 1) * count].flatten(0, 1)

    model.torch = type("Torch", (), {"__getattr__": lambda _, name: getattr(torch, name)})()
    model.torch.rand_like = noise


@pytest.fixture
def records(code_cfg, monkeypatch):
    monkeypatch.setattr(model, "torch", torch)  # restored behind fix_noise
    batch = next(iter(build_caption_loader(code_cfg)))
    batch[0]["word_labels"][3:] = -1  # one half has fewer labeled words than the other
    return batch


@pytest.mark.slow
def test_code(code_cfg, records, tmp_path):
    assert_split_changes_nothing(code_cfg, records, tmp_path, fix_noise)


@pytest.mark.slow
def test_each_process_may_average_for_itself(code_cfg, records, tmp_path):
    code_cfg.SOLVER.GLOBAL_LOSS_STATISTICS = False
    with pytest.raises(AssertionError):
        assert_split_changes_nothing(code_cfg, records, tmp_path, fix_noise)

# SPDX-License-Identifier: Apache-2.0
"""Tiny random CLIPs in place of OpenAI's."""

import functools
from collections.abc import Callable

import pytest
import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., CLIP]:
    """Build an ``open_clip.CLIP`` of images of 32 pixels, 9 tokens and embeddings of 32 numbers."""

    @functools.cache
    def make(
        kind: type = CLIP, quick_gelu: bool = False, head_width: int = 64, layers: int | tuple = 1
    ) -> CLIP:
        torch.manual_seed(0)
        vision = CLIPVisionCfg(
            layers=layers, width=64, head_width=head_width, patch_size=16, image_size=32
        )
        text = CLIPTextCfg(context_length=9, width=128, heads=2, layers=2)
        model = kind(32, vision, text, quick_gelu=quick_gelu).eval()
        for name, parameter in model.named_parameters():
            if not any(part in name for part in ("ln_", "bn")):
                # Larger than the initial values, so that the activations matter.
                nn.init.normal_(parameter, std=0.2)
        return model

    return make

# SPDX-License-Identifier: Apache-2.0
"""The text segmenter: from tokens behind CLIP's text tower to a feature for every word."""

import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from dalnet.modeling.clip import FrozenCLIP
from dalnet.modeling.clip.passes import run_block

from .losses import EPS

_BLOCKS, _HEAD_WIDTH = 2, 64


class WordDecoder(nn.Module):
    """Two transformer blocks in which every word of a caption looks at all others."""

    def __init__(self, clip: FrozenCLIP) -> None:
        """Make blocks of the text tower's width, with PyTorch's initial weights."""
        super().__init__()
        width = clip.model.positional_embedding.shape[1]
        self.blocks = nn.ModuleList(
            ResidualAttentionBlock(width, width // _HEAD_WIDTH, act_layer=QuickGELU)
            for _ in range(_BLOCKS)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return words ``[B, L, D]`` of length one of tokens ``[B, L, D]``."""
        for block in self.blocks:
            tokens = run_block(block, tokens)
        return F.normalize(tokens.float(), dim=-1, eps=EPS)

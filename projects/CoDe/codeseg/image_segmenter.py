# SPDX-License-Identifier: Apache-2.0
"""The image segmenter: from tokens of CLIP's last block but one to a feature for every 4th pixel.

At the start it is CLIP itself: a copy of its last block, in which each token looks at itself alone
(MaskCLIP, ECCV 2022), and of its projection, with a decoder that enlarges and changes nothing.
"""

import copy
import math

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor, nn

from dalnet.modeling.clip import FrozenCLIP
from dalnet.modeling.clip.passes import run_block

from .losses import EPS


class LastBlock(Backbone):
    """A trained copy of the last block of CLIP's image tower.

    Attributes:
        patch_size: side in pixels of a token.
    """

    def __init__(self, clip: FrozenCLIP) -> None:
        """Copy the block."""
        super().__init__()
        self.block = copy.deepcopy(clip.visual.transformer.resblocks[-1]).requires_grad_()
        self.patch_size = int(clip.visual.conv1.stride[0])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens ``[B, 1 + h w, D]`` behind the block, the class token first."""
        return run_block(self.block, tokens, "self")


class GatedLayer(nn.Module):
    """Doubles a map and adds a convolution of it, through a gate that is closed at first."""

    def __init__(self, width: int) -> None:
        """``width``: channels."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``[B, D, 2 h, 2 w]`` of maps ``[B, D, h, w]``."""
        maps = F.interpolate(maps, scale_factor=2, mode="nearest")
        normalized = self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return maps + self.gate.tanh() * self.conv(F.gelu(normalized))


class PixelDecoder(nn.Module):
    """Enlarges a map of tokens and projects every pixel of it into CLIP's joint space."""

    def __init__(self, clip: FrozenCLIP, layers: int) -> None:
        """Copy CLIP's projection; each of the ``layers`` doubles the map's sides."""
        super().__init__()
        width = len(clip.visual.class_embedding)
        self.layers = nn.Sequential(*(GatedLayer(width) for _ in range(layers)))
        self.norm: nn.LayerNorm = copy.deepcopy(clip.visual.ln_post).requires_grad_()
        self.proj = nn.Parameter(clip.visual.proj.detach().clone())

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return features of length one, ``[B, d, f h, f w]`` with f = 2 to the number of layers.

        Args:
            tokens: ``[B, 1 + h w, D]``, the class token first.
            grid: (h, w).
        """
        maps = self.layers(tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
        pixels = self.norm(maps.permute(0, 2, 3, 1)) @ self.proj
        return F.normalize(pixels.float(), dim=-1, eps=EPS).permute(0, 3, 1, 2)


def pad_to_patches(images: Tensor, side: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Return images with zeros around them that make their sides multiples of ``side``.

    Args:
        images: ``[N, 3, H, W]``.
        side: of a patch in pixels.

    Returns:
        The images, and how many pixels were added left, right, above and below.
    """
    missing_y, missing_x = (math.ceil(length / side) * side - length for length in images.shape[2:])
    left, top = missing_x // 2, missing_y // 2
    padding = (left, missing_x - left, top, missing_y - top)
    return F.pad(images, padding), padding


def cut_padding(maps: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Return maps ``[..., H, W]`` of padded images without the padding (left, right, top, bottom).

    It undoes :func:`pad_to_patches`.
    """
    left, right, top, bottom = padding
    height, width = maps.shape[-2:]
    return maps[..., top : height - bottom, left : width - right]

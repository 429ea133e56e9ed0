# SPDX-License-Identifier: Apache-2.0
"""A batch of captioned images."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalnet.modeling.batch import ImageBatch


@dataclass(frozen=True)
class CaptionBatch(ImageBatch):
    """B images with captions, of whose nouns K are drawn; see :class:`.mapper.CaptionMapper`.

    Attributes:
        images: ``[B, 3, H, W]``, float32 RGB in 0..255.
        caption_tokens: ids ``[B, 77]``.
        word_labels: ``[B, 77]``, 0..K, -1 for words that count for nothing.
        noun_tokens, prompt_tokens: ids ``[B, K, L]``, L that of the longest.
        caption_length: tokens of the longest caption, start and end included.
    """

    caption_tokens: Tensor
    word_labels: Tensor
    noun_tokens: Tensor
    prompt_tokens: Tensor
    caption_length: int

    @classmethod
    def derive(cls, inputs: list[dict], device: torch.device) -> dict[str, Any]:
        """Return what is cut behind the longest text.

        In CLIP's text tower no token looks at those behind it: what follows an end is for nothing.
        It is cut here, where tokens are still on the CPU and their lengths need not be waited for.
        """
        if any(name not in inputs[0] for name in ("noun_tokens", "prompt_tokens")):
            return {"caption_length": 0}  # refused by the caller
        values: dict[str, Any] = {}
        for name in ("noun_tokens", "prompt_tokens"):
            tokens = torch.stack([record[name] for record in inputs])
            values[name] = tokens[..., : longest(tokens)].to(device, non_blocking=True)
        captions = torch.stack([record["caption_tokens"] for record in inputs])
        return {**values, "caption_length": longest(captions)}


def longest(tokens: Tensor) -> int:
    """Return how many tokens the longest of texts ``[..., L]`` has, its end included."""
    return int(tokens.argmax(dim=-1).max()) + 1

# SPDX-License-Identifier: Apache-2.0
"""A batch of captioned images."""

from dataclasses import dataclass

from torch import Tensor

from dalnet.modeling.batch import ImageBatch


@dataclass(frozen=True)
class CaptionBatch(ImageBatch):
    """B images with captions, of whose nouns K are drawn; see :class:`.mapper.CaptionMapper`.

    Attributes:
        images: ``[B, 3, H, W]``, float32 RGB in 0..255.
        caption_tokens: ids ``[B, 77]``.
        word_labels: ``[B, 77]``, 0..K, -1 for words that count for nothing.
        noun_tokens: ids ``[B, K, 77 - context]``.
        prompt_tokens: ids ``[B, K, 77]``.
    """

    caption_tokens: Tensor
    word_labels: Tensor
    noun_tokens: Tensor
    prompt_tokens: Tensor

# SPDX-License-Identifier: Apache-2.0
"""Learned prompts: context before a noun, and what is seen where regions or words are hidden."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalnet.modeling.clip import FrozenCLIP
from dalnet.modeling.clip.passes import embed_words, word_embeddings

from .captions import CONTEXT_LENGTH, clip_tokenizer

# The context starts from these words, filled up with "x".
_FIRST_WORDS = "A photo of"


class NounPrompt(nn.Module):
    """Learned tokens before a noun (CoOp, IJCV 2022)."""

    def __init__(self, clip: FrozenCLIP, tokens: int) -> None:
        """Start from the embeddings of "A photo of x x x ..."; ``tokens``: how many there are."""
        super().__init__()
        ids = clip_tokenizer()([_FIRST_WORDS + " x" * CONTEXT_LENGTH])[0, 1 : tokens + 1]
        self.context = nn.Parameter(word_embeddings(clip, ids).detach().clone())

    def forward(self, clip: FrozenCLIP, noun_tokens: Tensor) -> Tensor:
        """Return the embeddings of nouns in CLIP's joint space, of length one, ``[M, d]``.

        Args:
            clip: whose text tower is used.
            noun_tokens: ids ``[M, 77 - context]``, start of text first.
        """
        words = word_embeddings(clip, noun_tokens)
        context = self.context.expand(len(words), -1, -1)
        # The end of text has the largest id.
        ends = noun_tokens.argmax(dim=1) + len(self.context)
        words = torch.cat([words[:, :1], context, words[:, 1:]], dim=1)
        return F.normalize(embed_words(clip, words, ends).float(), dim=1)


class HighlightPrompts(nn.Module):
    """What stands in the place of hidden pixels and words; nothing at first.

    Attributes:
        image: ``[1, 3, S, S]``, in normalized pixels.
        words: ``[77, D]``, one embedding for each place in a caption.
    """

    def __init__(self, clip: FrozenCLIP, learn_image: bool, learn_words: bool) -> None:
        """Make prompts of CLIP's sizes; one that is not learned stays zero."""
        super().__init__()
        side = clip.image_size
        self.image = nn.Parameter(torch.zeros(1, 3, side, side), learn_image)
        self.words = nn.Parameter(torch.zeros_like(clip.model.positional_embedding), learn_words)

    def image_of(self, size: tuple[int, int]) -> Tensor:
        """Return the image prompt at a size (H, W), resized bilinearly: ``[1, 3, H, W]``."""
        if tuple(self.image.shape[2:]) == tuple(size):
            return self.image
        return F.interpolate(self.image, size, mode="bilinear", align_corners=False)

# SPDX-License-Identifier: Apache-2.0
"""The words that a model is asked for, and their scores on images."""

from dataclasses import dataclass

import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from dalnet.layers import PixelAdaptiveRefinement

from .captions import CONTEXT_LENGTH

# What a noun is put into for the frozen CLIP beside the masker: published.
CLIP_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of many {}.",
    "a photo of {}s.",
)


@dataclass(frozen=True)
class ScoreSettings:
    """How masks become scores.

    Attributes:
        background: score of the background everywhere, in 0..1.
        clip_fraction: what the frozen CLIP's own maps contribute, in 0..1.
        clip_affine: scale and shift of its cosines in a sigmoid.
        refinement_steps: of PAMR on the masks; 0 for none.
    """

    background: float
    clip_fraction: float
    clip_affine: tuple[float, float]
    refinement_steps: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ScoreSettings":
        """Read ``MODEL.CODE.SCORES``."""
        scores = cfg.MODEL.CODE.SCORES
        return cls(
            background=scores.BACKGROUND,
            clip_fraction=scores.CLIP_FRACTION,
            clip_affine=tuple(scores.CLIP_AFFINE),
            refinement_steps=scores.REFINEMENT_STEPS,
        )

    def refiner(self) -> PixelAdaptiveRefinement:
        """Return PAMR (Araslanov and Roth, CVPR 2020) as a form of PAR."""
        return PixelAdaptiveRefinement.pamr(self.refinement_steps)

    def mix(self, masks: Tensor, cosines: Tensor) -> Tensor:
        """Return ``masks [N, C, H, W]`` with CLIP's own maps in them.

        Args:
            masks: in 0..1.
            cosines: of CLIP's tokens and the words ``[N, C, h, w]``.
        """
        scale, shift = self.clip_affine
        maps = (scale * cosines + shift).sigmoid()
        maps = F.interpolate(maps, masks.shape[2:], mode="bilinear", align_corners=False)
        return self.clip_fraction * maps + (1 - self.clip_fraction) * masks


@dataclass(frozen=True)
class WordEmbeddings:
    """C words in CLIP's joint space, rows of length one.

    Attributes:
        learned: by the learned prompt ``[C, d]``.
        sentences: by :data:`CLIP_TEMPLATES` ``[C, d]``.
    """

    learned: Tensor
    sentences: Tensor


def room_for_names(context_tokens: int) -> int:
    """Return how many tokens a name may have, beside the context, start and end of text."""
    return CONTEXT_LENGTH - context_tokens - 2

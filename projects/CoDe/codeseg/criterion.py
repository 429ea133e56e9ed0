# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of CoDe's nine losses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from .losses import (
    area_prior,
    feature_contrast,
    info_nce,
    noun_agreement,
    pool,
    total_variation,
    word_classification,
)
from .ranks import own_rows

_LOG_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class Outputs:
    """What a step's losses are made of.

    B images on this process, K nouns each, M = K B pairs in the order (noun, image), N pairs on
    all processes.

    Attributes:
        features: of pixels ``[B, d, h, w]``, of length one.
        masks: soft masks of every image for all nouns ``[B, N, h, w]``.
        nouns: ``[M, d]`` of length one, by learned prompts.
        prompts: ``[M, d]`` of length one, by CLIP's own sentences.
        regions: CLIP's embeddings of the images with all but a noun's region hidden, ``[M, d]``.
        words: CLIP's embeddings of the captions with all but a noun's words hidden, ``[M, d]``.
        word_logits: ``[B, K + 1, L]``.
        word_labels: ``[B, L]``, 0..K, -1 for words that count for nothing.
    """

    features: Tensor
    masks: Tensor
    nouns: Tensor
    prompts: Tensor
    regions: Tensor
    words: Tensor
    word_logits: Tensor
    word_labels: Tensor

    def own_masks(self) -> Tensor:
        """Return the masks of each image for its own nouns, ``[M, h, w]``."""
        pairs = len(self.nouns)
        own = own_rows(pairs, self.masks.device)
        images = torch.arange(pairs, device=self.masks.device) % len(self.masks)
        return self.masks[images, own]


class CoDeCriterion(nn.Module):
    """Computes the losses; three of them learn how much a cosine counts."""

    def __init__(
        self,
        weights: Mapping[str, float],
        area: float,
        as_released: bool,
        across_processes: bool = True,
    ) -> None:
        """
        Args:
            weights: by the names of :meth:`terms`.
            area: fraction of an image that the region of one of its nouns covers on average.
            as_released: the published code's form of what depends on the number of processes.
            across_processes: whether areas and words are averaged over all processes, where that is
                not ``as_released``; else over each. Contrasts are over all in either case.
        """
        super().__init__()
        self.weights = dict(weights)
        self.area, self.as_released = area, as_released
        self.by_process = as_released or not across_processes
        self.log_scales = nn.ParameterDict(
            {name: torch.tensor(_LOG_SCALE) for name in ("hlf", "hli", "hcl")}
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CoDeCriterion":
        """Read ``MODEL.CODE`` and ``SOLVER.GLOBAL_LOSS_STATISTICS``."""
        code = cfg.MODEL.CODE
        weights = {name.lower(): float(value) for name, value in code.WEIGHTS.items()}
        return cls(weights, code.AREA, code.AS_RELEASED, cfg.SOLVER.GLOBAL_LOSS_STATISTICS)

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Return the weighted losses by name, "loss_" before it."""
        return {f"loss_{k}": self.weights[k] * v for k, v in self.terms(outputs).items()}

    def terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """Return the losses before they are weighted."""
        scales, released, nouns = self.log_scales, self.as_released, outputs.nouns
        by_process = self.by_process
        # Pair m is of image m % B: what a loss wants by pair is repeated K times.
        repeats = len(nouns) // len(outputs.features)
        pooled = pool(outputs.features, outputs.masks).repeat(repeats, 1, 1)
        own = outputs.own_masks()
        return {
            "kg": noun_agreement(nouns, outputs.prompts),
            "hlf": feature_contrast(pooled, nouns, scales["hlf"], released),
            "hli": info_nce(outputs.regions, nouns, scales["hli"]),
            "tv_img": total_variation(outputs.features),
            "tv_mask": total_variation(outputs.masks),
            "area": area_prior(own.mean(), self.area, by_process),
            "neg_area": area_prior(_mean_of_others(outputs.masks, own), 0.0, by_process),
            "tseg": word_classification(outputs.word_logits, outputs.word_labels, by_process),
            "hcl": info_nce(outputs.regions, outputs.words, scales["hcl"]),
        }


def _mean_of_others(masks: Tensor, own: Tensor) -> Tensor:
    """Mean over the pairs ``own [M, h, w]`` of their images' masks for all other nouns."""
    pairs, others = len(own), masks.shape[1] - 1
    # Each image has M / B pairs, in each of which all N masks but one are another noun's.
    total = masks.sum() * (pairs // len(masks)) - own.sum()
    return total / max(pairs * others * own[0].numel(), 1)

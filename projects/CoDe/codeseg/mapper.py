# SPDX-License-Identifier: Apache-2.0
"""From a captioned image to what the model reads: pixels, token ids and word labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from dalnet.data.image_io import decode_image, read_image
from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES

from .caption_files import Captioned
from .captions import CONTEXT_LENGTH, clip_tokenizer, pseudo_word_labels


@dataclass(frozen=True)
class CaptionMapper:
    """Cuts an image and draws K of its nouns.

    Attributes:
        view: cuts and flips an image.
        num_nouns: K.
        context_tokens: how many learned tokens go before a noun and shorten its room.
    """

    view: v2.Transform
    num_nouns: int
    context_tokens: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CaptionMapper":
        """Read ``INPUT.CROP.SIZE``, ``INPUT.RANDOM_FLIP`` and ``MODEL.CODE``."""
        captions = cfg.MODEL.CODE.CAPTIONS
        crop = v2.RandomResizedCrop(
            tuple(cfg.INPUT.CROP.SIZE),
            scale=tuple(captions.CROP_SCALE),
            interpolation=InterpolationMode.BILINEAR,
        )
        flip = v2.RandomHorizontalFlip(0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0)
        return cls(v2.Compose([crop, flip]), cfg.MODEL.CODE.NOUNS, cfg.MODEL.CODE.CONTEXT_TOKENS)

    def __call__(self, sample: Captioned, nouns: Sequence[str]) -> dict[str, Any]:
        """Return the record of a sample.

        Args:
            sample: an image with its caption.
            nouns: of the caption, at least K different ones.

        Returns:
            ``image`` uint8 [3, H, W]; ``caption_tokens`` [77]; ``word_labels`` [77], see
            :func:`.captions.pseudo_word_labels`; of the K nouns ``noun_tokens`` [K, 77 - context]
            and ``prompt_tokens`` [K, 77], each noun in one of CLIP's 80 sentences; ``caption`` and
            ``nouns``, the selected ones, as text. Tokens are int64.

        Raises:
            UsageError: its image cannot be read.
        """
        image = sample.image
        upright = (
            decode_image(image, sample.name) if isinstance(image, bytes) else read_image(image)
        )
        pixels = v2.functional.pil_to_tensor(self.view(Image.fromarray(upright)))
        selected = [nouns[i] for i in np.random.permutation(len(nouns))[: self.num_nouns]]
        drawn = np.random.randint(len(IMAGENET_TEMPLATES), size=len(selected))
        pairs = zip(drawn, selected, strict=True)
        prompts = [IMAGENET_TEMPLATES[i].replace("{}", noun) for i, noun in pairs]
        return {
            "image": pixels,
            "caption_tokens": clip_tokenizer()([sample.caption])[0],
            "word_labels": torch.tensor(pseudo_word_labels(sample.caption, nouns, selected)),
            "noun_tokens": noun_tokens(selected, self.context_tokens),
            "prompt_tokens": clip_tokenizer()(prompts),
            "caption": sample.caption,
            "nouns": selected,
        }


def noun_tokens(nouns: Sequence[str], context_tokens: int) -> Tensor:
    """Return the token ids ``[K, 77 - context]`` of nouns, cut where there is no more room."""
    return clip_tokenizer(CONTEXT_LENGTH - context_tokens)(list(nouns))

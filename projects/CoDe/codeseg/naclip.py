# SPDX-License-Identifier: Apache-2.0
"""NACLIP (Hajimiri et al., WACV 2025): a CLIP that segments without any training.

In the last block of the image tower a patch looks at patches whose keys are like its own, and at
its neighbors; the block's residual connection and its MLP are left out. It is the baseline that
says what training adds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from dalnet.config import System
from dalnet.config.checks import Rule, above_zero, are_finite, fraction
from dalnet.modeling.batch import ImageBatch
from dalnet.modeling.clip import FrozenCLIP, load_clip
from dalnet.modeling.clip.passes import attend, image_tokens, project_image_tokens, require_vit
from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES
from dalnet.modeling.meta_arch import OpenVocabularySegmentor, Source
from dalnet.modeling.multi_scale import Features
from dalnet.modeling.resize import resize

from .captions import CONTEXT_LENGTH, clip_tokenizer
from .image_segmenter import cut_padding, pad_to_patches
from .losses import EPS


@META_ARCH_REGISTRY.register()
class NACLIP(OpenVocabularySegmentor[ImageBatch, Tensor]):
    """A frozen CLIP whose patches are compared with texts."""

    sources: Mapping[str, Source] = {"sem_seg": Source("segmentation", "probabilities")}
    required = ()

    @configurable
    def __init__(
        self,
        *,
        clip: FrozenCLIP,
        sigma: float,
        background: float,
        affine: tuple[float, float],
        **shared: Any,
    ) -> None:
        """
        Args:
            clip: of OpenAI's design.
            sigma: how far a patch looks around, in patches.
            background: score of the background, in 0..1.
            affine: scale and shift of cosines in the sigmoid that gives the classes' scores.
            shared: of :class:`dalnet.modeling.meta_arch.WeakSegmentor`.
        """
        super().__init__(**shared)
        require_vit(clip)
        self.clip = clip
        self.sigma, self.background, self.affine = sigma, background, affine
        self.patch_size = int(clip.visual.conv1.stride[0])
        sentences = [template.replace("{}", "") for template in IMAGENET_TEMPLATES]
        longest = max(len(clip_tokenizer().encode(sentence)) for sentence in sentences)
        self.name_tokens = CONTEXT_LENGTH - 2 - longest
        self.backbone = nn.Identity()  # nothing is trained

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.NACLIP`` and ``MODEL.CLIP``; the CLIP is loaded here."""
        clip, own = cfg.MODEL.CLIP, cfg.MODEL.NACLIP
        return {
            **cls.shared_arguments(cfg),
            "clip": load_clip(clip.NAME, clip.WEIGHTS, clip.PROVIDER),
            "sigma": own.SIGMA,
            "background": own.BACKGROUND,
            "affine": tuple(own.AFFINE),
        }

    def encode(self, images: Tensor) -> Features:
        """Return features of patches of normalized ``images [N, 3, H, W]``, and the images."""
        padded, _ = pad_to_patches(images, self.patch_size)
        grid = (padded.shape[2] // self.patch_size, padded.shape[3] // self.patch_size)
        tokens = image_tokens(self.clip, padded, -1)
        last = self.clip.visual.transformer.resblocks[-1]
        bias = neighbor_bias(grid, self.sigma).to(tokens)
        patches = project_image_tokens(self.clip, attend(last, tokens, "keys", bias)[:, 1:])
        patches = F.normalize(patches.float(), dim=-1, eps=EPS)
        return {"patches": patches.transpose(1, 2).unflatten(2, grid), "images": images}

    def maps(self, source: str, features: Features) -> Tensor:
        """Return scores ``[N, C + 1, H, W]`` in 0..1: a constant for the background, and classes.

        NACLIP itself has no such scores; these are CoDe's of the frozen CLIP beside its masks.
        """
        scale, shift = self.affine
        scores = (scale * self._cosines(features, self.class_texts()) + shift).sigmoid()
        return torch.cat([torch.full_like(scores[:, :1], self.background), scores], dim=1)

    def similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return cosines ``[N, K, H, W]`` of patches of normalized images and texts ``[K, d]``."""
        return self._cosines(self.encode(images), texts)

    def _cosines(self, features: Features, texts: Tensor) -> Tensor:
        padded, padding = pad_to_patches(features["images"], self.patch_size)
        cosines = torch.einsum("ndhw,kd->nkhw", features["patches"], texts.to(self.device))
        return cut_padding(resize(cosines, padded.shape[2:]), padding)

    def embed_classes(self, names: Sequence[str]) -> Tensor:
        """Return the names ``[C, d]``, each the mean over CLIP's 80 sentences."""
        return self.embed_texts(names, IMAGENET_TEMPLATES)

    def losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """There is nothing to train."""
        raise NotImplementedError("NACLIP is not trained")


def neighbor_bias(grid: tuple[int, int], sigma: float) -> Tensor:
    """Return what is added to the attention's logits, ``[1 + h w, 1 + h w]``.

    It is exp(-distance^2 / (2 sigma^2)) between patches and 0 for the class token.

    Args:
        grid: (h, w).
        sigma: in patches.
    """
    places = torch.cartesian_prod(*(torch.arange(side).float() for side in grid))
    squared = torch.cdist(places, places).square()
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (1, 0, 1, 0))


def add_naclip_config(cfg: CfgNode) -> None:
    """Add ``MODEL.NACLIP`` to ``cfg``, in place."""
    naclip = cfg.MODEL.NACLIP = CfgNode()
    naclip.SIGMA = 5.0  # of the Gaussian of the distance, in patches [published]
    naclip.BACKGROUND = 0.4  # its score everywhere, 0..1: CoDe's
    naclip.AFFINE = (10.0, -2.5)  # scale and shift of cosines in the sigmoid: CoDe's


SYSTEM = System(
    name="NACLIP",
    add_config=add_naclip_config,
    rules=(
        above_zero("MODEL.NACLIP.SIGMA"),
        fraction("MODEL.NACLIP.BACKGROUND"),
        Rule(
            ("MODEL.NACLIP.AFFINE",),
            lambda values: are_finite(values, 2),
            "give a scale and a shift, as (10.0, -2.5)",
        ),
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""CoDe's meta-architecture: image and text segmenter around one frozen CLIP."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dalnet.errors import UsageError
from dalnet.modeling.clip import FrozenCLIP, load_clip
from dalnet.modeling.clip.passes import (
    embed_images,
    embed_words,
    image_tokens,
    project_image_tokens,
    require_vit,
    run_block,
    text_tokens,
    word_embeddings,
)
from dalnet.modeling.meta_arch import OpenVocabularySegmentor, Source
from dalnet.modeling.multi_scale import Features
from dalnet.modeling.resize import resize

from .batch import CaptionBatch
from .criterion import CoDeCriterion, Outputs
from .image_segmenter import LastBlock, PixelDecoder, cut_padding, pad_to_patches
from .losses import EPS
from .mapper import noun_tokens
from .masks import Affine, hard_masks, highlight, region_cosines, word_logits, word_masks
from .prompts import HighlightPrompts, NounPrompt
from .ranks import gather_rows, own_rows
from .text_segmenter import WordDecoder
from .vocabulary import CLIP_TEMPLATES, ScoreSettings, WordEmbeddings, room_for_names


@META_ARCH_REGISTRY.register()
class CoDe(OpenVocabularySegmentor[CaptionBatch, WordEmbeddings]):
    """Segments images by nouns of any vocabulary, learned from captions alone.

    Letters in shapes: B images of this process with K nouns each, M = K * B pairs of a noun and an
    image, N pairs of all processes; in evaluation N images. L words of a caption, d the width of
    embeddings, D that of tokens before their projection.

    Attributes:
        backbone: copy of CLIP's last block, trained from ``unfreeze_iter`` on.
    """

    sources: Mapping[str, Source] = {"sem_seg": Source("segmentation", "probabilities")}
    batch_type = CaptionBatch
    clip_mark: Tensor

    @configurable
    def __init__(
        self,
        *,
        clip: FrozenCLIP,
        criterion: CoDeCriterion,
        context_tokens: int,
        decoder_layers: int,
        region_affine: tuple[float, float],
        word_affine: tuple[float, float],
        learn_prompts: tuple[bool, bool],
        unfreeze_iter: int,
        scores: ScoreSettings,
        **shared: Any,
    ) -> None:
        """
        Args:
            clip: of OpenAI's design, with both towers.
            criterion: the losses.
            context_tokens: learned tokens before a noun.
            decoder_layers: each doubles the sides of the map of tokens.
            region_affine, word_affine: first scale and shift of cosines in the masks' logits.
            learn_prompts: whether to learn what hidden pixels, and hidden words, are replaced by;
                otherwise they are replaced by zeros.
            unfreeze_iter: from this iteration on the last block is trained too.
            scores: how masks become scores.
            shared: of :class:`dalnet.modeling.meta_arch.WeakSegmentor`.
        """
        super().__init__(**shared)
        _require_sizes(clip)
        self.clip = clip
        self.criterion = criterion
        self.backbone = LastBlock(clip)
        self.decoder = PixelDecoder(clip, decoder_layers)
        self.noun_prompt = NounPrompt(clip, context_tokens)
        self.region_affine = Affine(*region_affine)
        self.word_decoder = WordDecoder(clip)
        self.word_affine = Affine(*word_affine)
        self.highlights = HighlightPrompts(clip, *learn_prompts)
        self.unfreeze_iter = unfreeze_iter
        self._withheld: tuple[nn.Parameter, ...] = ()
        self.scores = scores
        self.refine = scores.refiner()
        self.name_tokens = room_for_names(context_tokens)
        # Kept in checkpoints, because what is trained here fits only the CLIP it was trained with.
        self.register_buffer("clip_mark", _mark(clip))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from a config; loads the CLIP.

        Raises:
            UsageError: crops that are not filled by patches.
        """
        code = cfg.MODEL.CODE
        clip = load_clip(cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.WEIGHTS, cfg.MODEL.CLIP.PROVIDER)
        patch = int(clip.visual.conv1.stride[0])
        if any(side % patch for side in cfg.INPUT.CROP.SIZE):
            what = f"it is {list(cfg.INPUT.CROP.SIZE)}, but patches have {patch} pixels"
            raise UsageError(what, "INPUT.CROP.SIZE", "set it to multiples of that")
        return {
            **cls.shared_arguments(cfg),
            "clip": clip,
            "criterion": CoDeCriterion.from_config(cfg),
            "context_tokens": code.CONTEXT_TOKENS,
            "decoder_layers": code.DECODER_LAYERS,
            "region_affine": tuple(code.REGION_AFFINE),
            "word_affine": tuple(code.WORD_AFFINE),
            "learn_prompts": (code.IMAGE_PROMPT, code.WORD_PROMPT),
            "unfreeze_iter": code.UNFREEZE_ITER,
            "scores": ScoreSettings.from_config(cfg),
        }

    def losses(self, batch: CaptionBatch) -> dict[str, Tensor]:
        """Return the nine losses of captioned images, see :class:`CoDeCriterion`."""
        images = self.normalize(batch.images)
        nouns = self.embed_nouns(batch.noun_tokens)  # [K, B, d]
        pixels = self.pixel_features(*self.frozen_tokens(images))
        logits = self.region_logits(pixels, gather_rows(nouns.flatten(0, 1)))  # [B, N, h, w]
        words = self.classify_words(batch.caption_tokens, nouns)  # [B, K + 1, L]
        outputs = Outputs(
            features=pixels,
            masks=logits.sigmoid(),
            nouns=nouns.flatten(0, 1),
            prompts=self.embed_sentences(batch.prompt_tokens),
            regions=self.embed_regions(images, logits, len(nouns)),
            words=self.embed_words(batch.caption_tokens, words, batch.caption_length),
            word_logits=words,
            word_labels=batch.word_labels,
        )
        losses = self.criterion(outputs)
        if self._withheld:
            # A gradient of zeros, because processes exchange the gradients of all parameters.
            zero = sum(parameter.sum() for parameter in self._withheld) * 0.0
            losses["loss_tv_img"] = losses["loss_tv_img"] + zero
        return losses

    def withheld_parameters(self) -> Iterable[nn.Parameter]:
        """Return the last block's parameters while it is not trained, else nothing."""
        return self._withheld

    @torch.no_grad()
    def frozen_tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens ``[B, 1 + h w, D]`` before CLIP's last block, and their grid (h, w).

        Args:
            images: normalized ``[B, 3, H, W]``, sides multiples of the patch.
        """
        side = self.backbone.patch_size
        grid = (images.shape[2] // side, images.shape[3] // side)
        return image_tokens(self.clip, images, -1), grid

    def pixel_features(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return pixel features ``[B, d, f h, f w]`` of length one.

        Args:
            tokens, grid: of :meth:`frozen_tokens`; f is the factor of the decoder.
        """
        is_trained = self.training and get_event_storage().iter >= self.unfreeze_iter
        self._withheld = ()
        if self.training and not is_trained:
            self._withheld = tuple(self.backbone.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained):
            tokens = self.backbone(tokens)
        return self.decoder(tokens, grid)

    def region_logits(self, pixels: Tensor, nouns: Tensor) -> Tensor:
        """Return the masks' logits ``[B, N, h, w]`` of pixels ``[B, d, h, w]`` and nouns."""
        return self.region_affine(region_cosines(pixels, nouns))

    def embed_nouns(self, tokens: Tensor) -> Tensor:
        """Return nouns of length one ``[K, B, d]`` of token ids ``[B, K, L]``."""
        by_noun = tokens.transpose(0, 1)
        return self.noun_prompt(self.clip, by_noun.flatten(0, 1)).unflatten(0, by_noun.shape[:2])

    @torch.no_grad()
    def embed_sentences(self, tokens: Tensor) -> Tensor:
        """Return CLIP's embeddings of length one ``[K B, d]`` of token ids ``[B, K, L]``."""
        tokens = tokens.transpose(0, 1).flatten(0, 1)
        words = word_embeddings(self.clip, tokens)
        return F.normalize(embed_words(self.clip, words, tokens.argmax(dim=1)).float(), dim=1)

    def embed_regions(self, images: Tensor, logits: Tensor, nouns: int) -> Tensor:
        """Return CLIP's embeddings ``[M, d]`` of images with all but one noun's region hidden.

        Args:
            images: normalized ``[B, 3, H, W]``.
            logits: of masks ``[B, N, h, w]``.
            nouns: K, of each image.
        """
        pairs = nouns * len(images)
        repeated = torch.arange(pairs, device=images.device) % len(images)
        own = logits[repeated, own_rows(pairs, images.device)]  # [M, h, w]
        hard = hard_masks(own, torch.rand_like(own))[:, None]
        size = (images.shape[2], images.shape[3])
        hard = F.interpolate(hard, size, mode="nearest")
        prompt = self.highlights.image_of(size)
        return embed_images(self.clip, highlight(hard, images[repeated], prompt))

    def classify_words(self, tokens: Tensor, nouns: Tensor) -> Tensor:
        """Return the logits ``[B, K + 1, L]`` of captions' words for no noun and for each noun.

        Args:
            tokens: ids ``[B, L]``.
            nouns: ``[K, B, d]`` of length one.
        """
        with torch.no_grad():
            hidden = text_tokens(self.clip, word_embeddings(self.clip, tokens))
        return word_logits(self.word_decoder(hidden), nouns, self.word_affine)

    def embed_words(self, tokens: Tensor, logits: Tensor, length: int) -> Tensor:
        """Return CLIP's embeddings ``[M, d]`` of captions with all but one noun's words hidden.

        Args:
            tokens: ids ``[B, L]``.
            logits: ``[B, K + 1, L]``, see :meth:`classify_words`.
            length: of the longest caption; what follows is cut off.
        """
        ends = tokens.argmax(dim=1)
        masks = word_masks(logits[..., :length], ends)[..., None]  # [K, B, length, 1]
        words = word_embeddings(self.clip, tokens[:, :length])  # [B, length, D]
        shown = highlight(masks, words, self.highlights.words[:length])
        return embed_words(self.clip, shown.flatten(0, 1), ends.repeat(len(masks)))

    def encode(self, images: Tensor) -> Features:
        """Return the normalized images ``[N, 3, H, W]`` unchanged; :meth:`maps` does the rest."""
        return {"images": images}

    def maps(self, source: str, features: Features) -> Tensor:
        """Return scores ``[N, C + 1, H, W]`` in 0..1: a constant for the background, and masks."""
        images = features["images"]
        words = self.class_texts()
        padded, padding = pad_to_patches(images, self.backbone.patch_size)
        tokens, grid = self.frozen_tokens(padded)
        masks = self.region_logits(self.pixel_features(tokens, grid), words.learned).sigmoid()
        if self.scores.refinement_steps:
            size = masks.shape[2:]
            small = F.interpolate(padded, size, mode="bilinear", align_corners=True)
            masks = self.refine(small, masks)
        if self.scores.clip_fraction:
            masks = self.scores.mix(masks, self.clip_cosines(tokens, grid, words.sentences))
        masks = cut_padding(resize(masks, padded.shape[2:]), padding)
        return torch.cat([torch.full_like(masks[:, :1], self.scores.background), masks], dim=1)

    def similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return cosines ``[N, K, H, W]`` of pixels of normalized images and texts ``[K, d]``."""
        padded, padding = pad_to_patches(images, self.backbone.patch_size)
        pixels = self.pixel_features(*self.frozen_tokens(padded))
        return cut_padding(resize(region_cosines(pixels, texts), padded.shape[2:]), padding)

    def clip_cosines(self, tokens: Tensor, grid: tuple[int, int], words: Tensor) -> Tensor:
        """Return cosines ``[N, C, h, w]`` of the frozen CLIP's own tokens and words (MaskCLIP).

        Args:
            tokens, grid: of :meth:`frozen_tokens`.
            words: ``[C, d]`` of length one.
        """
        last = run_block(self.clip.visual.transformer.resblocks[-1], tokens, "self")
        patches = project_image_tokens(self.clip, last[:, 1:]).float()
        patches = F.normalize(patches, dim=-1, eps=EPS)
        return (patches @ words.T).transpose(1, 2).unflatten(2, grid)

    def embed_classes(self, names: Sequence[str]) -> WordEmbeddings:
        """Return the names by the learned prompt, and by sentences for the frozen CLIP."""
        tokens = noun_tokens(names, len(self.noun_prompt.context)).to(self.device)
        return WordEmbeddings(
            self.noun_prompt(self.clip, tokens), self.embed_texts(names, CLIP_TEMPLATES)
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights that were trained with this CLIP.

        Raises:
            UsageError: they were trained with another one.
        """
        mark, own = state_dict.get("clip_mark", self.clip_mark), _mark(self.clip)
        if not mark.any():  # published weights, which get that of the CLIP that they are read with
            state_dict = {**state_dict, "clip_mark": own}
        elif not torch.equal(mark.cpu(), own):
            raise UsageError(
                "the checkpoint was trained with another CLIP",
                "MODEL.CLIP.WEIGHTS",
                "name the file that it was trained with",
            )
        return super().load_state_dict(state_dict, *args, **kwargs)


def _require_sizes(clip: FrozenCLIP) -> None:
    """Refuse a CLIP that has no vision transformer, or whose words have another width.

    Raises:
        UsageError: such a CLIP.
    """
    require_vit(clip)
    width, joint = clip.model.text_projection.shape
    if width != joint:
        raise UsageError(
            f"its text tower is {width} wide, but its embeddings are {joint}",
            "MODEL.CLIP.NAME",
            "choose ViT-B-16, in which words and nouns can be compared",
        )


def _mark(clip: FrozenCLIP) -> Tensor:
    """Return a hash of CLIP's two projections, uint8 [8], which tells one CLIP from another."""
    digest = hashlib.sha256()
    for weight in (clip.visual.proj, clip.model.text_projection):
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()[:8]), dtype=torch.uint8)

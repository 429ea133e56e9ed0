# SPDX-License-Identifier: Apache-2.0
"""The visual encoder: any of timm's vision transformers as a Detectron2 backbone."""

import math
import os
from functools import partial
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import HybridEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from dalnet.errors import UsageError
from dalnet.modeling.backbone.stem import build_stem
from dalnet.modeling.backbone.weights import load_vit_weights
from dalnet.modeling.cpu import attention_kernel
from dalnet.modeling.resize import resize
from dalnet.modeling.weight_files import refused_with

_STEM_STRIDE = 16  # pixels of a token behind a stem, where PATCH_SIZE does not say
_MAX_DEPTH = 1000  # blocks; known encoders have less than a hundred
_SIZES = ("IMG_SIZE", "PATCH_SIZE", "EMBED_DIM", "DEPTH", "NUM_HEADS")


@BACKBONE_REGISTRY.register()
class TimmViT(Backbone):
    """Returns class token, patch tokens and an intermediate block's tokens of a timm ViT.

    Every member of timm's ``VisionTransformer`` family that has a class token will do: ViT, DeiT
    (distilled too), DeiT III, DINO, DINOv2 with or without registers, CLIP's image towers.

    Attributes:
        vit: timm's model without its classifier.
        patch_size: side of a patch in pixels.
        embed_dim: width D of the tokens.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        weights: str,
        intermediate_block: int,
        grad_checkpointing: bool = False,
        compile_mode: str = "",
        overrides: dict[str, int] | None = None,
        stem: str = "",
        stem_weights: str = "",
        pos_embed: str = "bilinear",
    ) -> None:
        """
        Args:
            name: timm's name of the model, with or without its pre-training tag.
            weights: "timm", a file or "", see :func:`.weights.load_vit_weights`.
            intermediate_block: block, counted from 1, after which ``inter_tokens`` are read.
            grad_checkpointing: recompute each block in the backward pass to save memory.
            compile_mode: of ``torch.compile`` for the blocks; "" leaves them as they are.
            overrides: timm's constructor arguments to change (``img_size``, ``patch_size``,
                ``embed_dim``, ``depth``, ``num_heads``, ``drop_path_rate``).
            stem: timm's name of a CNN that takes the place of the patch embedding, or "".
            stem_weights: its weights, see :func:`.stem.build_stem`.
            pos_embed: "bilinear" or "bicubic", how the position embedding is resized to grids of
                another size than it was trained on.

        Raises:
            UsageError: unknown or unsuitable model, bad block number, weights missing or misfit.
        """
        super().__init__()
        if stem and weights == "timm":
            raise UsageError(
                f'it is "timm", which has no weights for a ViT behind MODEL.VIT.STEM {stem}',
                where="MODEL.VIT.WEIGHTS",
                hint='set it to "", or to a checkpoint of the same two',
            )
        self.vit, self.patch_size = _create_encoder(name, overrides or {}, stem, stem_weights)
        depth = len(self.vit.blocks)
        if not 1 <= intermediate_block <= depth:
            raise UsageError(
                f"it is {intermediate_block}, but {name} has the blocks 1 to {depth}",
                where="MODEL.VIT.INTERMEDIATE_BLOCK",
                hint="choose one of them",
            )
        load_vit_weights(self.vit, name, weights)
        self.pos_embed = pos_embed
        if compile_mode:
            # Block by block, because all blocks share their code, so that it is compiled only once
            # for each kind of shape. Names of parameters stay as they are.
            for block in self.vit.blocks:
                block.compile(mode=compile_mode)
        # A step runs a CUDA graph several times, and each run overwrites the output of the one
        # before: what is kept has to be copied.
        self._copies_outputs = compile_mode in ("reduce-overhead", "max-autotune")
        self.intermediate_block = intermediate_block
        self.grad_checkpointing = grad_checkpointing
        self.embed_dim: int = self.vit.embed_dim

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.VIT``; the input always has three channels."""
        vit = cfg.MODEL.VIT
        sizes = {key.lower(): vit[key] for key in _SIZES if vit[key]}
        if vit.DROP_PATH > 0:
            sizes["drop_path_rate"] = vit.DROP_PATH
        return {
            "name": vit.NAME,
            "weights": vit.WEIGHTS,
            "intermediate_block": vit.INTERMEDIATE_BLOCK,
            "grad_checkpointing": vit.GRAD_CHECKPOINTING,
            "compile_mode": vit.COMPILE,
            "overrides": sizes,
            "stem": vit.STEM,
            "stem_weights": vit.STEM_WEIGHTS,
            "pos_embed": vit.POS_EMBED,
        }

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode normalized images of any size.

        The grid is h = round(H / patch), w = round(W / patch), at least 1. Where a side is not a
        multiple of the patch, the image is resized (bilinear) to h*patch x w*patch first, so that
        the grid always covers exactly the image and maps on it need no shift or padding.

        Args:
            images: [N, 3, H, W], normalized with ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD``.

        Returns:
            ``cls_token`` [N, D] and ``patch_tokens`` [N, D, h, w], after the last block and its
            norm (which timm's models that pool before it, as EVA, lack); ``inter_tokens``
            [N, D, h, w], after the intermediate block, without a norm.
        """
        tokens, grid = self._embed(images)
        inter = tokens
        for number, block in enumerate(self.vit.blocks, start=1):
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(_run_block, block, tokens, use_reentrant=False)
            else:
                tokens = _run_block(block, tokens)
            if number == self.intermediate_block:
                inter = tokens.clone() if self._copies_outputs else tokens
        tokens = self.vit.norm(tokens)
        return {
            "cls_token": tokens[:, 0],
            "patch_tokens": self._as_map(tokens, grid),
            "inter_tokens": self._as_map(inter, grid),
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and strides of what :meth:`forward` returns."""
        grid = ShapeSpec(channels=self.embed_dim, stride=self.patch_size)
        return {
            "cls_token": ShapeSpec(channels=self.embed_dim),
            "patch_tokens": grid,
            "inter_tokens": grid,
        }

    def _embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the tokens before the first block, [N, prefix + h*w, D], and (h, w).

        This is timm's ``_pos_embed``, which has no switch for how the embedding is resized.
        """
        vit, side = self.vit, self.patch_size
        # floor(x + 0.5), because round() rounds halves to even: 1.5 up, but 2.5 down.
        fitted = [max(1, math.floor(s / side + 0.5)) * side for s in images.shape[-2:]]
        images = resize(images, fitted)
        patches = vit.patch_embed(images)
        grid = (patches.shape[1], patches.shape[2])
        patches = patches.flatten(1, 2)
        special = (vit.cls_token, getattr(vit, "dist_token", None), vit.reg_token)
        prefix = [token.expand(len(images), -1, -1) for token in special if token is not None]
        position = self._position(grid)
        if vit.no_embed_class:
            tokens = torch.cat([*prefix, patches + position], dim=1)
        else:
            tokens = torch.cat([*prefix, patches], dim=1) + position
        return vit.norm_pre(vit.patch_drop(vit.pos_drop(tokens))), grid

    def _position(self, grid: tuple[int, int]) -> torch.Tensor:
        return resample_abs_pos_embed(
            self.vit.pos_embed,
            new_size=list(grid),
            old_size=list(self.vit.patch_embed.grid_size),
            num_prefix_tokens=0 if self.vit.no_embed_class else self.vit.num_prefix_tokens,
            interpolation=self.pos_embed,
            antialias=False,
        )

    def _as_map(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        patches = tokens[:, self.vit.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, grid)


def _run_block(block: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    # The context is entered in here, so that a block that is run again chooses the same attention.
    with attention_kernel(tokens.shape[1], tokens.device):
        result: torch.Tensor = block(tokens)
    return result


def _refuse_huge(name: str, overrides: dict[str, int]) -> None:
    """Refuse sizes, as of a checkpoint from elsewhere, of which this machine would be filled.

    Raises:
        ValueError: it has too many blocks, or more weights than there is memory.
    """
    if overrides.get("depth", 0) > _MAX_DEPTH:
        raise ValueError(f"it would have more than {_MAX_DEPTH} blocks")
    with torch.device("meta"):  # which gives tensors no memory
        vit = timm.create_model(name, num_classes=0, dynamic_img_size=True, **overrides)
    needed = sum(parameter.numel() * parameter.itemsize for parameter in vit.parameters())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        what = f"its weights would take {needed / 1e9:,.0f} GB, this machine has"
        raise ValueError(f"{what} {memory / 1e9:,.0f} GB")


def _create_encoder(
    name: str, overrides: dict[str, int], stem: str, stem_weights: str
) -> tuple[VisionTransformer, int]:
    """Return the ViT without classifier and weights, and the side of a token's patch in pixels."""
    options: dict[str, Any] = dict(overrides)
    stride = options.pop("patch_size", _STEM_STRIDE) if stem else 0
    if stem:
        embedding = partial(HybridEmbed, backbone=build_stem(stem, stem_weights, stride))
        # timm cuts the CNN's map into patches, not the image: one token for each cell of the map.
        options |= {"embed_layer": embedding, "patch_size": 1}
    changed = ", ".join(f"{key}={value}" for key, value in overrides.items())
    with refused_with(
        f"timm cannot build {name!r} with {changed or 'its own sizes'}",
        where="MODEL.VIT.NAME",
        hint="choose a ViT, DeiT or DINOv2 of timm.list_models('*vit*'), and sizes that fit it",
    ):
        if not timm.is_model(name):
            raise ValueError(f"timm {timm.__version__} has no such model")
        if overrides:
            _refuse_huge(name, overrides)
        vit = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)
        plain = isinstance(vit, VisionTransformer) and vit.pos_embed is not None
        if not plain or vit.cls_token is None:
            raise ValueError("it is not a plain vision transformer with a class token")
    # The layers behind the tokens have no part in any loss. Their parameters would get no
    # gradient, which DistributedDataParallel refuses.
    vit.reset_classifier(0, "")
    vit.fc_norm = nn.Identity()
    return vit, stride or vit.patch_embed.feat_ratio()

# SPDX-License-Identifier: Apache-2.0
"""Run CLIP's towers step by step, for systems that read or change tokens between the steps.

Towers are those of OpenAI's design, whichever package has built them. Tokens are ``[N, L, D]``.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from dalnet.errors import UsageError
from dalnet.modeling.cpu import attention_kernel

from .towers import FrozenCLIP

Attention = Literal["all", "causal", "self", "keys"]


def require_vit(clip: FrozenCLIP) -> None:
    """Refuse image towers that are no vision transformer of OpenAI's design.

    Raises:
        UsageError: it is one, or there is none.
    """
    parts = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "ln_post", "proj")
    if not all(hasattr(clip.visual, part) for part in parts):
        raise UsageError(
            "its image tower is no vision transformer of OpenAI's design",
            where="MODEL.CLIP.NAME",
            hint="choose ViT-B-16",
        )


def attend(
    block: ResidualAttentionBlock,
    tokens: Tensor,
    attention: Attention = "all",
    bias: Tensor | None = None,
) -> Tensor:
    """Return what a block's attention adds to its tokens.

    Args:
        block: of either tower.
        tokens: ``[N, L, D]``, as they enter the block.
        attention: what a token looks at: "all" others, as images do; "causal", those before it, as
            texts do; "self", nothing but itself (MaskCLIP, ECCV 2022); "keys", what has keys like
            its own (NACLIP, WACV 2025).
        bias: ``[L, L]``, added to the attention's logits; with "all" and "keys".

    Returns:
        ``[N, L, D]``.
    """
    mha, normalized = block.attn, block.ln_1(tokens)
    weight, shift = mha.in_proj_weight, mha.in_proj_bias
    if attention == "self":
        values = F.linear(normalized, weight[-mha.embed_dim :], shift[-mha.embed_dim :])
        return mha.out_proj(values)
    packed = F.linear(normalized, weight, shift).unflatten(-1, (3, mha.num_heads, -1))
    queries, keys, values = packed.permute(2, 0, 3, 1, 4)  # [N, heads, L, D / heads] each
    with attention_kernel(tokens.shape[1], tokens.device):
        result = F.scaled_dot_product_attention(
            keys if attention == "keys" else queries,
            keys,
            values,
            attn_mask=bias,
            is_causal=attention == "causal",
        )
    return mha.out_proj(result.transpose(1, 2).flatten(2))


def run_block(
    block: ResidualAttentionBlock, tokens: Tensor, attention: Attention = "all"
) -> Tensor:
    """Return the tokens ``[N, L, D]`` behind a block of either tower; see :func:`attend`."""
    tokens = tokens + _layer_scale(block, "ls_1", attend(block, tokens, attention))
    return tokens + _layer_scale(block, "ls_2", block.mlp(block.ln_2(tokens)))


def _layer_scale(block: ResidualAttentionBlock, name: str, tokens: Tensor) -> Tensor:
    # OpenAI's package has none, OpenCLIP's an identity where the design has none.
    return getattr(block, name)(tokens) if hasattr(block, name) else tokens


def image_tokens(clip: FrozenCLIP, images: Tensor, blocks: int | None = None) -> Tensor:
    """Return the tokens of images behind the first ``blocks`` blocks; all where not given.

    Args:
        clip: with an image tower of OpenAI's design.
        images: normalized ``[N, 3, H, W]``, sides multiples of the patch; of another size than the
            tower's they get its position embedding resized.
        blocks: may be negative, as -1 for all but the last.

    Returns:
        ``[N, 1 + h w, D]``, the class token first.
    """
    visual: VisionTransformer = clip.visual
    patches = visual.conv1(images)  # [N, D, h, w]
    positions = resize_positions(visual.positional_embedding, tuple(patches.shape[-2:]))
    first = visual.class_embedding.expand(len(images), 1, -1)
    tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
    tokens = visual.ln_pre(tokens + positions)
    for block in visual.transformer.resblocks[:blocks]:
        tokens = run_block(block, tokens)
    return tokens


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a position embedding ``[1 + s s, D]`` for another grid (h, w): ``[1 + h w, D]``.

    The patches' part is resized like an image (bicubic, corners not aligned), the class token's row
    stays.
    """
    return resample_abs_pos_embed(positions[None], list(grid), antialias=False)[0]


def project_image_tokens(clip: FrozenCLIP, tokens: Tensor) -> Tensor:
    """Return tokens ``[..., D]`` behind the last block as embeddings ``[..., d]``, any length."""
    visual: VisionTransformer = clip.visual
    return visual.ln_post(tokens) @ visual.proj


def embed_images(clip: FrozenCLIP, images: Tensor) -> Tensor:
    """Return the embeddings ``[N, d]`` of normalized images of any size, see image_tokens."""
    return project_image_tokens(clip, image_tokens(clip, images)[:, 0])


def word_embeddings(clip: FrozenCLIP, tokens: Tensor) -> Tensor:
    """Return the embeddings ``[N, L, D]`` of token ids ``[N, L]``, without their positions."""
    model: CLIP = clip.model
    return model.token_embedding(tokens)


def text_tokens(clip: FrozenCLIP, words: Tensor) -> Tensor:
    """Return the tokens behind the text tower's last block, before its last normalization.

    Args:
        clip: any.
        words: embeddings ``[N, L, D]`` without positions, L at most the tower's length.
    """
    model: CLIP = clip.model
    tokens = words + model.positional_embedding[: words.shape[1]]
    for block in model.transformer.resblocks:
        tokens = run_block(block, tokens, "causal")
    return tokens


def embed_words(clip: FrozenCLIP, words: Tensor, ends: Tensor) -> Tensor:
    """Return the embeddings ``[N, d]`` of texts, any length.

    Args:
        clip, words: see :func:`text_tokens`.
        ends: position of each end of text ``[N]``.
    """
    tokens = clip.model.ln_final(text_tokens(clip, words))
    return (
        tokens[torch.arange(len(tokens), device=tokens.device), ends] @ clip.model.text_projection
    )

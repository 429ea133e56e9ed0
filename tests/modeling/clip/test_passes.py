# SPDX-License-Identifier: Apache-2.0
"""CLIP's towers in steps against their own forward passes."""

import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from open_clip import SimpleTokenizer
from torch import nn

from dalnet.modeling.clip import FrozenCLIP
from dalnet.modeling.clip.passes import (
    attend,
    embed_images,
    embed_words,
    image_tokens,
    project_image_tokens,
    require_vit,
    resize_positions,
    run_block,
    text_tokens,
    word_embeddings,
)


@pytest.fixture
def clip(make_clip):
    return FrozenCLIP(
        make_clip(layers=3, quick_gelu=True), SimpleTokenizer(context_length=9), False
    )


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32)


def test_images_as_a_whole(clip, images):
    close(embed_images(clip, images), clip.encode_image(images), atol=1e-4)


def test_images_between_blocks(clip, images):
    expected = clip.visual.forward_intermediates(images, normalize_intermediates=False)
    tokens = image_tokens(clip, images, -1)
    patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2))
    close(patches, expected["image_intermediates"][1], atol=1e-4)
    last = run_block(clip.visual.transformer.resblocks[-1], tokens)
    close(last, image_tokens(clip, images))
    close(project_image_tokens(clip, last[:, 0]), clip.encode_image(images), atol=1e-4)


def test_images_of_another_size(clip, images):
    # Enlarged from 2 x 2 to 2 x 3 places, and then as the tower does it.
    wide = torch.cat([images, images], dim=3)[..., :48]
    assert image_tokens(clip, wide).shape == (2, 7, 64)
    visual = clip.visual
    patches = visual.conv1(wide).flatten(2).transpose(1, 2)  # [2, 6, width], row by row
    start = visual.class_embedding.expand(2, 1, -1)
    tokens = torch.cat([start, patches], dim=1)
    expected = visual.ln_pre(tokens + resize_positions(visual.positional_embedding, (2, 3)))
    close(image_tokens(clip, wide, 0), expected)
    assert torch.equal(clip.visual.positional_embedding, resize_positions(
        clip.visual.positional_embedding, (2, 2)))  # fmt: skip


def test_resized_positions():
    positions = torch.arange(10.0)[:, None] * torch.tensor([1.0, -2.0])
    resized = resize_positions(positions, (4, 5))
    assert torch.equal(resized[0], positions[0])
    for channel in (0, 1):
        square = positions[1:, channel].view(1, 1, 3, 3)
        expected = F.interpolate(square, (4, 5), mode="bicubic", align_corners=False)
        close(resized[1:, channel], expected.flatten())


def test_texts_as_a_whole(clip):
    tokens = clip.tokenize(["a red fish", "leaf", "a b c d e f g h i j k l"])
    words = word_embeddings(clip, tokens)
    close(embed_words(clip, words, tokens.argmax(dim=1)), clip.encode_text(tokens), atol=1e-4)


def test_text_tokens_are_causal(clip):
    words = torch.randn(1, 9, 128)
    changed = words.clone()
    changed[:, 6:] = 0
    close(text_tokens(clip, words)[:, :6], text_tokens(clip, changed)[:, :6])
    assert not torch.allclose(text_tokens(clip, words)[:, 6:], text_tokens(clip, changed)[:, 6:])


def explicit(block, tokens, mask):
    """A block with an additive mask of the attention, as PyTorch's own layer computes it."""
    normalized = block.ln_1(tokens)
    added = block.attn(normalized, normalized, normalized, need_weights=False, attn_mask=mask)[0]
    tokens = tokens + added
    return tokens + block.mlp(block.ln_2(tokens))


def test_a_token_that_looks_at_itself_alone(clip):
    block, tokens = clip.visual.transformer.resblocks[0], torch.randn(2, 5, 64)
    only_itself = torch.full((5, 5), float("-inf")).fill_diagonal_(0)
    close(run_block(block, tokens, "self"), explicit(block, tokens, only_itself))
    close(run_block(block, tokens), explicit(block, tokens, torch.zeros(5, 5)))


def test_attention_of_keys_to_keys(clip):
    block, tokens, bias = (
        clip.model.transformer.resblocks[0],
        torch.randn(1, 4, 128),
        torch.rand(4, 4),
    )
    packed = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    _, keys, values = packed[0].chunk(3, dim=-1)
    heads = []
    for head in range(2):
        part = slice(64 * head, 64 * head + 64)
        weights = (keys[:, part] @ keys[:, part].T / 8 + bias).softmax(dim=-1)
        heads.append(weights @ values[:, part])
    close(attend(block, tokens, "keys", bias)[0], block.attn.out_proj(torch.cat(heads, dim=-1)))


def test_gradients_reach_the_words(clip):
    words = torch.randn(2, 9, 128, requires_grad=True)
    embed_words(clip, words, torch.tensor([3, 5])).sum().backward()
    assert words.grad[0, :4].any()
    assert not words.grad[0, 4:].any()
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_a_residual_network_is_refused(make_clip):
    clip = FrozenCLIP(make_clip(layers=(1, 1, 1, 1)), SimpleTokenizer(), False)
    with refused("MODEL.CLIP.NAME"):
        require_vit(clip)


class WithCLIP(nn.Module):
    def __init__(self, clip):
        super().__init__()
        self.clip = clip
        self.layer = nn.Linear(2, 2)


def test_frozen_weights_are_not_in_checkpoints(clip):
    assert {*WithCLIP(clip).state_dict()} == {"layer.weight", "layer.bias"}
    assert not clip.state_dict()

# SPDX-License-Identifier: Apache-2.0
"""The parts around the frozen CLIP: what they are at first, and published figures."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.transformer import QuickGELU, ResidualAttentionBlock

from codeseg.image_segmenter import (
    GatedLayer,
    LastBlock,
    PixelDecoder,
    cut_padding,
    pad_to_patches,
)
from codeseg.prompts import HighlightPrompts, NounPrompt
from codeseg.text_segmenter import WordDecoder
from dalnet.layers import PixelAdaptiveRefinement
from dalnet.modeling.clip import load_clip
from dalnet.modeling.clip.passes import (
    image_tokens,
    project_image_tokens,
    resize_positions,
    run_block,
)

BLOCK = [
    *("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight"),
    *("mlp.c_proj.bias", "ln_2.weight", "ln_2.bias"),
]


@pytest.fixture
def clip(clip_file):
    return load_clip("ViT-B-16-quickgelu", str(clip_file))


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


def test_the_decoder_is_published(published):
    layers = [GatedLayer(4), GatedLayer(4)]
    closed = published("F8__x")
    for layer in layers:
        closed = layer(closed)
    close(closed, published("F8__out_gate0"))
    result = published("F8__x")
    for number, layer in enumerate(layers):
        names = ("norm.weight", "norm.bias", "conv.weight", "conv.bias")
        state = {n: published(f"F8__sd_{number}_{n.replace('.', '_')}") for n in names}
        layer.load_state_dict({**state, "gate": published(f"F8__sd_{number}_gate_gate")})
        result = layer(result)
    close(result, published("F8__out"))


def test_at_first_the_segmenter_is_clip_enlarged(clip):
    torch.manual_seed(0)
    tokens = image_tokens(clip, torch.randn(2, 3, 32, 48), -1)
    features = PixelDecoder(clip, 2)(LastBlock(clip)(tokens), (4, 6))
    last = run_block(clip.visual.transformer.resblocks[-1], tokens, "self")
    own = F.normalize(project_image_tokens(clip, last[:, 1:]), dim=-1)
    own = own.transpose(1, 2).unflatten(2, (4, 6))
    close(features, F.interpolate(own, scale_factor=4, mode="nearest"))


def test_copies_do_not_touch_clip(clip):
    block, decoder = LastBlock(clip), PixelDecoder(clip, 1)
    assert all(p.requires_grad for p in (*block.parameters(), *decoder.parameters()))
    with torch.no_grad():
        for parameter in (*block.parameters(), *decoder.parameters()):
            parameter.add_(1)
    assert not torch.equal(decoder.proj, clip.visual.proj)
    assert not any(p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize(
    ("size", "padding"),
    [((41, 61), (1, 2, 3, 4)), ((48, 64), (0, 0, 0, 0)), ((1, 17), (7, 8, 7, 8))],
)
def test_padding_to_whole_patches(size, padding):
    # F10: 41 x 61 gets 1, 2, 3 and 4 pixels left, right, above and below.
    images = torch.rand(1, 3, *size)
    padded, found = pad_to_patches(images, 16)
    assert found == padding
    assert not any(side % 16 for side in padded.shape[2:])
    assert torch.equal(cut_padding(padded, found), images)
    assert padded.sum() == pytest.approx(images.sum())


def test_the_context_starts_as_words(clip, published):
    prompt = NounPrompt(clip, 16)
    ids = SimpleTokenizer()(["A photo of" + " x" * 50])[0, 1:17]
    assert torch.equal(prompt.context, clip.model.token_embedding(ids))
    assert torch.equal(ids, published("F9__ctx_init_ids"))


def test_a_noun_behind_its_context(clip):
    prompt = NounPrompt(clip, 16)
    noun = prompt(clip, SimpleTokenizer(context_length=61)(["red fish"]))
    # With the context as it is at first, it is CLIP's embedding of these words.
    words = "A photo of" + " x" * 13 + " red fish"
    expected = F.normalize(clip.encode_text(clip.tokenize([words])), dim=1)
    close(noun, expected, atol=1e-4)
    noun.sum().backward()
    assert prompt.context.grad.any()


def test_a_noun_that_fills_all_room(clip, published):
    tokens = SimpleTokenizer(context_length=61)(["dog", "word " * 200])
    ends = tokens.argmax(dim=1) + 16
    assert ends.tolist() == [18, 76]
    assert NounPrompt(clip, 16)(clip, tokens).isfinite().all()
    assert published("F9__eos_index").tolist()[::3] == [18, 76]


def test_words_look_at_each_other(clip):
    torch.manual_seed(0)
    decoder = WordDecoder(clip)
    tokens = torch.randn(1, 5, 64)
    close(decoder(tokens).norm(dim=-1), torch.ones(1, 5))
    changed = tokens.clone()
    changed[:, 4] = torch.randn(1, 64)
    assert not torch.allclose(decoder(tokens)[:, 0], decoder(changed)[:, 0])
    assert sum(p.numel() for p in decoder.parameters()) == 2 * (12 * 64 * 64 + 13 * 64)


def test_prompts_of_what_is_hidden(clip):
    prompts = HighlightPrompts(clip, True, False)
    assert prompts.image.shape == (1, 3, 32, 32)
    assert prompts.words.shape == (77, 64)
    assert not prompts.image.any()
    assert [p.requires_grad for p in (prompts.image, prompts.words)] == [True, False]
    assert prompts.image_of((32, 32)) is prompts.image
    assert prompts.image_of((16, 40)).shape == (1, 3, 16, 40)


def test_the_image_prompt_at_another_size(clip):
    """F14: between the middles of its pixels the prompt is a straight line, and flat outside."""
    prompts = HighlightPrompts(clip, True, True)
    line = torch.randn(32, generator=torch.Generator().manual_seed(0))
    prompts.image.data[:] = line
    wide = torch.empty(64)
    for x in range(64):
        place = min(max((x + 0.5) / 2 - 0.5, 0), 31)
        left = min(int(place), 30)
        wide[x] = line[left] + (place - left) * (line[left + 1] - line[left])
    close(prompts.image_of((16, 64)), wide.expand(1, 3, 16, 64))


@pytest.mark.parametrize(
    ("image", "mask", "result", "steps", "dilations"),
    [
        ("image", "mask", "out_it2_d12", 2, (1, 2)),
        ("image", "mask", "out_full", 10, (1, 2, 4, 8, 12, 24)),
        ("image", "mask_small", "out_small_it1_d1", 1, (1,)),
    ],
)
def test_refinement_is_published(published, image, mask, result, steps, dilations):
    images, masks = published(f"F5__{image}"), published(f"F5__{mask}")
    refined = PixelAdaptiveRefinement.pamr(steps, dilations)(images, masks)
    close(refined, published(f"F5__{result}"))


def test_refinement_at_the_size_of_the_masks_is_published(published):
    images, masks = published("F5__big_image"), published("F5__big_mask")
    small = F.interpolate(images, masks.shape[2:], mode="bilinear", align_corners=True)
    close(PixelAdaptiveRefinement.pamr()(small, masks), published("F5__out_apply"))


def test_a_block_is_published(published):
    first, last = (ResidualAttentionBlock(8, 2, act_layer=QuickGELU) for _ in range(2))
    for number, block in enumerate((first, last)):
        names = {name: name.replace(".", "_") for name in BLOCK}
        prefix = f"F12__sd_resblocks_{number}_"
        block.load_state_dict({key: published(prefix + name) for key, name in names.items()})
    between = run_block(first, published("F12__x").transpose(0, 1))
    close(run_block(last, between, "self").transpose(0, 1), published("F12__out_self_only"))
    close(run_block(last, between).transpose(0, 1), published("F12__out_full"))


def test_resized_positions_are_published(published):
    positions = published("F12__pos_emb")
    close(resize_positions(positions, (4, 5)), published("F12__pos_emb_4x5"))
    close(resize_positions(positions, (3, 3)), published("F12__pos_emb_3x3"))

# SPDX-License-Identifier: Apache-2.0
"""The masked autoencoder against plain loops, and that it learns what it should and no more."""

import pytest
import timm
import torch
from torch.nn import functional as F

from dalnet.modeling import TimmViT
from dalnet_mae.masked_autoencoder import (
    MaskedAutoencoder,
    random_orders,
    to_images,
    to_patches,
)

SIZES = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SIDE, PATCH, PATCHES, VISIBLE = 32, 8, 16, 4


def make(name="vit_tiny_patch16_224", seed=0, ratio=0.75, width=16, depth=2, heads=2, **sizes):
    torch.manual_seed(seed)
    overrides = {**SIZES, "img_size": SIDE, **sizes}
    vit = TimmViT(name=name, weights="", intermediate_block=1, overrides=overrides).vit
    return MaskedAutoencoder(vit, ratio, width, depth, heads)


def draw(count=2, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator, dtype=dtype)


def patch_of(image, number):
    """Pixel by pixel: channels, rows, columns."""
    top, left = PATCH * (number // (SIDE // PATCH)), PATCH * (number % (SIDE // PATCH))
    return [
        image[c, top + y, left + x].item()
        for c in range(3)
        for y in range(PATCH)
        for x in range(PATCH)
    ]


def plain_loss(model, images, order):
    """The method as the paper tells it: put back in place, decode, compare what was hidden."""
    vit, total, count = model.vit, 0.0, 0
    for image, shuffled in zip(images, order.tolist(), strict=True):
        visible, hidden = shuffled[:VISIBLE], shuffled[VISIBLE:]
        embedded = vit.patch_embed(image[None])[0].flatten(0, 1)
        tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
        tokens += [embedded[i] + vit.pos_embed[0, 1 + i] for i in visible]
        latent = model.narrow(vit.norm(vit.blocks(torch.stack(tokens)[None])))[0]
        places = [latent[0], *[model.mask_token[0, 0]] * PATCHES]
        for token, i in zip(latent[1:], visible, strict=True):
            places[1 + i] = token
        decoded = model.blocks((torch.stack(places) + model.positions[0])[None])
        predicted = model.pixels(model.norm(decoded))[0, 1:]
        for i in hidden:
            target = patch_of(image, i)
            mean = sum(target) / len(target)
            variance = sum((t - mean) ** 2 for t in target) / (len(target) - 1)
            for t, p in zip(target, predicted[i].tolist(), strict=True):
                total += (p - (t - mean) / (variance + 1e-6) ** 0.5) ** 2
                count += 1
    return total / count


def test_loss_is_the_plain_loop():
    model, images, order = make().double(), draw(), random_orders(2, PATCHES)
    with torch.no_grad():
        # Fresh tokens are near zero: a missing one would not be seen.
        model.vit.cls_token.normal_()
        model.mask_token.normal_()
        expected = plain_loss(model, images, order)
        assert model(images, order).item() == pytest.approx(expected, rel=1e-10)


def test_patches_are_rows_of_pixels_and_back():
    images = torch.randn(2, 3, 24, 16)
    patches = to_patches(images, PATCH)
    assert patches.shape == (2, 6, 3 * PATCH**2)
    assert patches[1, 3].tolist() == images[1, :, 8:16, 8:].flatten().tolist()
    assert torch.equal(to_images(patches, PATCH, rows=3), images)


def test_only_visible_patches_reach_the_blocks():
    model, images = make().double(), draw()
    seen = []
    model.vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    order = random_orders(2, PATCHES)
    tokens = model.encode(images, order)
    assert seen == [(2, 1 + VISIBLE, 24)] and tokens.shape == (2, 1 + VISIBLE, 24)
    assert model.decode(tokens, order).shape == (2, PATCHES - VISIBLE, 3 * PATCH**2)
    hidden = to_patches(images, PATCH).scatter(1, order[:, VISIBLE:, None].expand(-1, -1, 192), 9.0)
    changed = model.encode(to_images(hidden, PATCH, rows=4), order)
    torch.testing.assert_close(changed, tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, prefix",
    [
        ("deit_tiny_distilled_patch16_224", 2),
        ("deit3_small_patch16_224", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
    ],
)
def test_other_families_of_timm(name, prefix):
    model = make(name)
    order = random_orders(2, PATCHES)
    assert model.encode(draw().float(), order).shape[1] == prefix + VISIBLE
    assert model(draw().float(), order).isfinite()


def test_all_visible_equals_timm():
    model, images = make().double().eval(), draw()
    model.num_visible = PATCHES
    order = torch.arange(PATCHES).expand(2, -1)
    with torch.no_grad():
        expected = model.vit.forward_features(images)
        torch.testing.assert_close(model.encode(images, order), expected)


def test_gradient_reaches_encoder_and_decoder():
    model = make().double()
    model(draw()).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["vit.pos_embed"], "positions are fixed, everything else learns"


def test_visible_patches_play_no_part_in_the_loss():
    model, images, order = make().double(), draw(1), random_orders(1, PATCHES)
    predictions = model.decode(model.encode(images, order), order)
    loss = model.loss(predictions, images, order)
    for place, number in enumerate(order[0].tolist()):
        patches = to_patches(images, PATCH).clone()
        patches[0, number] = torch.randn(3 * PATCH**2)
        changed = model.loss(predictions, to_images(patches, PATCH, rows=4), order)
        assert (changed == loss) == (place < VISIBLE)


def test_a_seed_gives_the_same_masks_and_loss():
    model, images = make(), draw(4, dtype=torch.float32)
    losses, orders = [], []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        orders.append(random_orders(4, PATCHES))
        torch.manual_seed(seed)
        losses.append(model(images).item())
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert orders[0].sort(dim=1).values.tolist() == [list(range(PATCHES))] * 4
    assert len({tuple(row) for row in orders[0].tolist()}) == 4, "images have masks of their own"


def test_a_flat_patch_does_no_harm():
    assert make()(torch.zeros(1, 3, SIDE, SIDE)).isfinite()


def test_mixed_precision_leaves_the_loss_in_float32():
    model, images, order = make(), draw(dtype=torch.float32), random_orders(2, PATCHES)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images, order)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model(images, order).item(), rel=0.02)


def test_learns_one_picture():
    model = make(width=32)
    smooth = F.interpolate(draw(1, dtype=torch.float32)[..., :6, :6], SIDE, mode="bicubic")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(60):
        losses.append(model(smooth.expand(8, -1, -1, -1)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5


def test_reconstruction_keeps_what_is_visible():
    model, images, order = make().double(), draw(), random_orders(2, PATCHES)
    masked, completed = (to_patches(x, PATCH) for x in model.reconstruct(images, order))
    patches = to_patches(images, PATCH)
    for n, shuffled in enumerate(order.tolist()):
        visible, hidden = shuffled[:VISIBLE], shuffled[VISIBLE:]
        assert torch.equal(masked[n, visible], patches[n, visible]) and not masked[n, hidden].any()
        assert torch.equal(completed[n, visible], patches[n, visible])
        predicted = model.decode(model.encode(images, order), order)[n]
        mean, std = (f(patches[n, hidden], dim=1, keepdim=True) for f in (torch.mean, torch.std))
        # The published constant in the variance is not in torch.std.
        torch.testing.assert_close(completed[n, hidden], predicted * std + mean, rtol=0, atol=1e-5)


def test_starts_from_published_positions():
    model = make()
    reference = timm.layers.build_sincos2d_pos_embed([4, 4], 24)
    torch.testing.assert_close(model.vit.pos_embed[0, 1:], reference)
    assert not model.vit.pos_embed[0, 0].any() and not model.positions[0, 0].any()


@pytest.mark.parametrize("ratio", [0.0, 0.99, 1.0])
def test_something_must_be_visible_and_something_hidden(ratio):
    with pytest.raises(ValueError, match="of 16 patches"):
        make(ratio=ratio)

# SPDX-License-Identifier: Apache-2.0
"""The network: its loss, its two ways to encode, and its patch features."""

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from dalnet_toyclip.batches import draw_batch
from dalnet_toyclip.images import draw_bank
from dalnet_toyclip.toy_clip import ToyCLIP, contrastive_loss
from dalnet_toyclip.vocabulary import tokenize


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ToyCLIP().eval().requires_grad_(False)


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_loss_against_plain_loops():
    torch.manual_seed(1)
    images, texts, scale = unit(5, 4), unit(3, 4), 7.0
    fits = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()

    def one_way(queries, keys, fit):
        total = 0.0
        for q, row in zip(queries, fit, strict=True):
            weights = [math.exp(scale * float(q @ k)) for k in keys]
            wanted = [w for w, yes in zip(weights, row, strict=True) if yes]
            total -= sum(math.log(w / sum(weights)) for w in wanted) / len(wanted)
        return total / len(queries)

    expected = (one_way(texts, images, fits) + one_way(images, texts, fits.T)) / 2
    loss = contrastive_loss(images, texts, fits, torch.tensor(scale, dtype=torch.float64))
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_loss_is_clips_own_where_each_caption_fits_one_image():
    images, texts = unit(6, 4), unit(6, 4)
    loss = contrastive_loss(images, texts, torch.eye(6).bool(), torch.tensor(5.0))
    assert float(loss) == pytest.approx(float(open_clip.ClipLoss()(images, texts, 5.0)))


def test_gradient_of_the_loss():
    torch.manual_seed(2)
    fits = torch.eye(4).bool()
    fits[0, 2] = fits[3, 1] = True
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    features = [unit(4, 3).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda i, t, s: contrastive_loss(i, t, fits, s), (*features, scale)
    )


def test_short_captions_are_encoded_as_long_ones(model):
    sentences = ["a photo of moon.", "a red striped star on a beach", "background"]
    tokens = tokenize(sentences)
    whole = F.normalize(model.towers.encode_text(F.pad(tokens, (0, 77 - tokens.shape[1]))), dim=1)
    assert tokens.shape[1] < 12
    torch.testing.assert_close(model.encode_sentences(sentences), whole, atol=1e-5, rtol=0)


def test_images_are_normalized_as_clip_wants_them(model):
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    normalize = open_clip.transform.image_transform(96, is_train=False).transforms[-1]
    expected = F.normalize(model.towers.visual(normalize(images / 255)), dim=1)
    torch.testing.assert_close(model.encode_images(images), expected)


def test_a_patch_attends_to_itself_in_the_last_block(model):
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    visual, seen = model.towers.visual, []
    last = visual.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    visual(model.normalize(images))
    hook.remove()
    [x] = seen  # [1, 145, 128]
    attention = last.attn
    value = last.ln_1(x) @ attention.in_proj_weight[256:].T + attention.in_proj_bias[256:]
    x = x + attention.out_proj(value)
    x = x + last.mlp(last.ln_2(x))
    patches = F.normalize(visual.ln_post(x[0, 1:]) @ visual.proj, dim=1)  # [144, 128]
    features = model.encode_patches(images)
    assert features.shape == (1, 128, 12, 12)
    torch.testing.assert_close(features[0].flatten(1).T, patches, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return draw_batch(rng, draw_bank(rng, 100, 2), 16)


def test_training_sees_what_inference_does(model, batch):
    images = batch["images"][:2]
    order = torch.stack([torch.randperm(144) for _ in images])
    first = model._encode_seen(images, order)
    torch.testing.assert_close(F.normalize(first, dim=1), model.encode_images(images))


def test_patches_that_are_not_seen_do_not_matter(model):
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    other = images.clone()
    other[:, :, 8:16, :8] = 0  # patch 12: the first of the second row
    for seen, equal in ((12, False), (1, True)):
        numbers = torch.tensor([[0, 30, seen]])
        pair = (model._encode_seen(i, numbers) for i in (images, other))
        assert torch.equal(*pair) == equal


def test_a_tile_is_judged_by_its_own_patches(model, batch):
    patches = model._encode_patches(batch["collages"])
    tiles = model._encode_tiles(batch["collages"], batch["tiles"])
    torch.testing.assert_close(
        F.normalize(patches, dim=2), model.encode_patches(batch["collages"]).flatten(2).mT
    )
    for number in range(2):
        for tile in range(4):
            own = [
                p for p, t in zip(patches[number], batch["tiles"][number], strict=True) if t == tile
            ]
            torch.testing.assert_close(tiles[4 * number + tile], sum(own) / len(own))


def test_loss_is_of_whole_images_and_of_tiles(model, batch):
    whole = model._encode_seen(batch["images"], batch["patches"])
    tiles = model._encode_tiles(batch["collages"], batch["tiles"])
    images = F.normalize(torch.cat([whole, tiles]), dim=1)
    texts, scale = model.encode_tokens(batch["tokens"]), model.towers.logit_scale.exp()
    expected = contrastive_loss(images, texts, batch["fits"], scale)
    loss = model(batch)["loss_contrast"]
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0)  # of bfloat16


def test_every_parameter_learns(batch):
    model = ToyCLIP()
    model(batch)["loss_contrast"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

# SPDX-License-Identifier: Apache-2.0
"""The network: its loss, its two ways to encode, and its patch features."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from dalnet.modeling.clip.passes import run_block
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


def test_training_sees_what_inference_does(model):
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    order = torch.stack([torch.randperm(144) for _ in images])
    first, patches = model._encode_seen(images, order)
    torch.testing.assert_close(F.normalize(first, dim=1), model.encode_images(images))
    x, last = model._all_but_last_block(images)
    every = model._project(run_block(last, x, "self"))[:, 1:]
    torch.testing.assert_close(patches, every.mean(dim=1), atol=1e-5, rtol=1e-4)


def test_patches_that_are_not_seen_do_not_matter(model):
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    other = images.clone()
    other[:, :, 8:16, :8] = 0  # patch 12: the first of the second row
    for seen, equal in ((12, False), (1, True)):
        numbers = torch.tensor([[0, 30, seen]])
        pairs = zip(
            model._encode_seen(images, numbers), model._encode_seen(other, numbers), strict=True
        )
        assert all(torch.equal(a, b) == equal for a, b in pairs)


def test_losses_are_of_the_class_token_and_of_the_patches(model):
    batch = {
        "images": torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8),
        "patches": torch.arange(144).expand(3, -1),
        "tokens": tokenize(["a moon", "a goldfish", "a street"]),
        "fits": torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]]).bool(),
    }
    texts, scale = model.encode_tokens(batch["tokens"]), model.towers.logit_scale.exp()
    losses = model(batch)
    for name, part in zip(
        losses, model._encode_seen(batch["images"], batch["patches"]), strict=True
    ):
        expected = contrastive_loss(F.normalize(part, dim=1), texts, batch["fits"], scale)
        torch.testing.assert_close(losses[name], expected, atol=0.05, rtol=0)  # of bfloat16
    assert list(losses) == ["loss_class_token", "loss_patches"]


def test_every_parameter_learns():
    model = ToyCLIP()
    batch = {
        "images": torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8),
        "patches": torch.arange(144).expand(2, -1),
        "tokens": tokenize(["a photo of moon.", "a goldfish"]),
        "fits": torch.eye(2).bool(),
    }
    sum(model(batch).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())

# SPDX-License-Identifier: Apache-2.0
"""The model as a whole: its losses against a transcription, what learns when, vocabularies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import refused

from codeseg.batch import CaptionBatch
from codeseg.loader import build_caption_loader
from codeseg.vocabulary import CLIP_TEMPLATES
from dalnet.modeling.clip.passes import embed_words


@pytest.fixture
def model(code_cfg):
    torch.manual_seed(0)
    model = build_model(code_cfg)
    # Open gates and prompts that are not zero, so that every part shows.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name or name.startswith("highlights"):
                parameter.normal_(std=0.5)
    return model


@pytest.fixture
def batch(code_cfg):
    np.random.seed(0)
    records = next(iter(build_caption_loader(code_cfg)))
    return CaptionBatch.collate(records, torch.device("cpu"))


def test_texts_are_cut_behind_the_longest(batch):
    for tokens in (batch.noun_tokens, batch.prompt_tokens):
        assert tokens.shape[2] == tokens.argmax(dim=2).max() + 1 < 40
    assert batch.caption_tokens.shape[1] == 77
    assert batch.caption_length == batch.caption_tokens.argmax(dim=1).max() + 1


def losses_at(model, batch, iteration):
    torch.manual_seed(1)  # of the masks that are drawn
    with EventStorage(iteration):
        return model.train().losses(batch)


def unit_rows(rows):
    return F.normalize(rows, dim=-1, eps=1e-6)


def transcribed_words(model, batch, text):
    """Scores of the words of each caption for its nouns, and the captions with them alone."""
    clip, count, nouns = model.clip, *batch.noun_tokens.shape[:2]
    table, positions = clip.model.token_embedding, clip.model.positional_embedding
    pairs = len(text)
    tokens = batch.caption_tokens.repeat(nouns, 1)
    words = table(tokens)
    hidden = words + positions
    mask = torch.full((77, 77), float("-inf")).triu(1)
    for block in clip.model.transformer.resblocks:
        hidden = block(hidden, attn_mask=mask)
    for block in model.word_decoder.blocks:
        hidden = block(hidden)
    word_cosines = torch.einsum("mld,md->ml", unit_rows(hidden), text)
    word_logit = (model.word_affine.w * word_cosines + model.word_affine.b).view(nouns, count, 77)
    word_logit = torch.cat([torch.zeros(1, count, 77), word_logit])
    word_mask = word_logit.softmax(dim=0)[1:].reshape(pairs, 77)
    ends = tokens.argmax(dim=1)
    keep = torch.arange(77) < 1
    keep = keep | (torch.arange(77) >= ends[:, None])
    word_mask = torch.where(keep, torch.ones(()), word_mask)[..., None]
    caption = unit_rows(
        embed_words(clip, word_mask * words + (1 - word_mask) * model.highlights.words, ends)
    )
    return word_logit, caption


def contrast(a, c):
    own = torch.arange(len(a))
    return (F.cross_entropy(a @ c.T / 0.07, own) + F.cross_entropy(c @ a.T / 0.07, own)) / 2


def variation(x):
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def transcribed_losses(model, batch):
    """The specification for one process: everything is tiled to M = K B pairs, noun by noun."""
    clip, unit = model.clip, unit_rows
    count, nouns = batch.noun_tokens.shape[:2]
    images = model.normalize(batch.images).repeat(nouns, 1, 1, 1)
    pairs = len(images)

    def encode_image(x):
        return clip.encode_image(x)

    def noun_major(tokens):
        return torch.cat([tokens[:, k] for k in range(nouns)])

    ids = noun_major(batch.noun_tokens)
    table = clip.model.token_embedding
    context = model.noun_prompt.context
    texts = torch.cat([table(ids[:, :1]), context.expand(pairs, -1, -1), table(ids[:, 1:])], dim=1)
    text = embed_words(clip, texts, 17 + ids[:, 1:].argmax(dim=1))
    text = text / text.norm(dim=1, keepdim=True)

    pixels = model.pixel_features(*model.frozen_tokens(images))
    cosines = torch.einsum("mdhw,nd->mnhw", pixels, text)
    logits = model.region_affine.w * cosines + model.region_affine.b
    soft = logits.sigmoid()
    own = torch.arange(pairs)
    torch.manual_seed(1)
    uniform = torch.rand(pairs, *soft.shape[2:])
    gumbel = (logits[own, own] + torch.log(uniform / (1 - uniform))).sigmoid()
    hard = ((gumbel > 0.5).float() - gumbel).detach() + gumbel
    others = torch.stack([torch.cat([soft[m, :m], soft[m, m + 1 :]]) for m in range(pairs)])

    large = F.interpolate(hard[:, None], images.shape[2:], mode="nearest")
    shown = large * images + (1 - large) * model.highlights.image
    region = unit(encode_image(shown))

    word_logit, caption = transcribed_words(model, batch, text)
    sentences = noun_major(batch.prompt_tokens)
    prompts = unit(clip.encode_text(F.pad(sentences, (0, 77 - sentences.shape[1]))))
    pooled = torch.einsum("mdhw,mnhw->mnd", pixels, soft) / (soft.sum((2, 3))[..., None] + 1e-6)

    to_text = torch.einsum("mnd,nd->mn", unit(pooled), unit(text)) / 0.07

    labels = batch.word_labels
    return {
        "kg": 8.0 * (1 - (text * prompts).sum(1).mean()),
        "hlf": 0.1 * (F.cross_entropy(to_text, own) + F.cross_entropy(to_text.T, own)) / 2,
        "hli": 0.1 * contrast(region, unit(text)),
        "tv_img": variation(pixels),
        "tv_mask": variation(soft),
        "area": 0.5 * (soft[own, own].mean() - 0.25).abs(),
        "neg_area": 0.05 * others.mean().abs(),
        "tseg": F.cross_entropy(
            word_logit.permute(1, 0, 2), labels, torch.tensor([0.5, 1, 1]), ignore_index=-1
        ),
        "hcl": 0.5 * contrast(region, caption),
    }


def test_losses_as_transcribed(model, batch):
    found = losses_at(model, batch, 5)
    with EventStorage(5):
        expected = transcribed_losses(model.train(), batch)
    assert set(found) == {f"loss_{name}" for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(found[f"loss_{name}"], value, atol=1e-4, rtol=1e-4, msg=name)
    # The transcription has the scales of cosines as numbers.
    parameters = [p for n, p in model.named_parameters() if p.requires_grad and "scales" not in n]
    ours = torch.autograd.grad(sum(found.values()), parameters)
    theirs = torch.autograd.grad(sum(expected.values()), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


def test_every_loss_counts(model, batch):
    losses = losses_at(model, batch, 5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.any() for g in gradients), name


def test_everything_learns_but_clip(model, batch):
    sum(losses_at(model, batch, 5).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith("clip."), name
        if parameter.requires_grad:
            assert parameter.grad.any(), name


def test_the_last_block_is_withheld_at_first(model, batch):
    sum(losses_at(model, batch, 1).values()).backward()
    withheld = list(model.withheld_parameters())
    assert withheld == list(model.backbone.parameters())
    # Zeros, and not nothing: processes exchange gradients of all parameters.
    assert all(p.grad is not None and not p.grad.any() for p in withheld)
    losses_at(model, batch, 2)
    assert not list(model.withheld_parameters())


def test_trained_sizes_are_published():
    """ViT-B/16's numbers of parameters, from its widths."""
    vision, text, joint = 768, 512, 512
    block = 12 * vision**2 + 13 * vision
    layer = 9 * vision**2 + vision + 2 * vision + 1
    parts = {
        "block": block,
        "decoder": 2 * layer,
        "projection": 2 * vision + vision * joint,
        "affine": 4,
        "context": 16 * text,
        "words": 2 * (12 * text**2 + 13 * text),
        "word prompt": 77 * text,
        "image prompt": 3 * 224 * 224,
        "scales": 3,
    }
    assert parts["decoder"] == 10_621_442
    assert sum(parts.values()) == 24_606_985
    assert sum(parts.values()) - block == 17_519_113


def test_parameters_are_counted_so(model):
    vision = text = joint = 64
    expected = (12 * vision**2 + 13 * vision) + 2 * (9 * vision**2 + 3 * vision + 1)
    expected += 2 * vision + vision * joint + 4 + 16 * text + 2 * (12 * text**2 + 13 * text)
    expected += 77 * text + 3 * 32 * 32 + 3
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def record(seed=0, size=(41, 61)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return {"image": image, "height": size[0], "width": size[1]}


def test_predictions(model):
    result = model.eval()([record()])[0]["sem_seg"]
    assert result.shape == (4, 41, 61)
    torch.testing.assert_close(result.sum(dim=0), torch.ones(41, 61))
    images = model.normalize(record()["image"].float()[None])
    scores = model.maps("sem_seg", model.encode(images))
    assert (scores[:, 0] == 0.4).all()
    assert 0 <= scores.min() <= scores.max() <= 1
    assert torch.equal(result.argmax(dim=0), scores[0].argmax(dim=0))


def transcribed_scores(model, images):
    """Section 7.2 of the specification, for images whose sides are multiples of the patch."""
    clip, names = model.clip, model.class_names[1:]
    tokens, grid = model.frozen_tokens(images)
    pixels = model.decoder(model.backbone(tokens), grid)
    rows = [model.noun_prompt(clip, clip_noun(name))[0] for name in names]
    masks = torch.stack([(10 * torch.einsum("ndhw,d->nhw", pixels, row) - 2.5).sigmoid()
                         for row in rows], dim=1)  # fmt: skip
    small = F.interpolate(images, masks.shape[2:], mode="bilinear", align_corners=True)
    masks = model.refine(small, masks)
    last = clip.visual.transformer.resblocks[-1]
    hidden = tokens + last.attn.out_proj(
        F.linear(last.ln_1(tokens), last.attn.in_proj_weight, last.attn.in_proj_bias)[..., -64:]
    )
    hidden = hidden + last.mlp(last.ln_2(hidden))
    patches = F.normalize(clip.visual.ln_post(hidden[:, 1:]) @ clip.visual.proj, dim=-1)
    maps = []
    for name in names:
        sentences = clip.tokenize([template.replace("{}", name) for template in CLIP_TEMPLATES])
        row = F.normalize(F.normalize(clip.encode_text(sentences), dim=1).mean(dim=0), dim=0)
        maps.append((10 * (patches @ row - 0.25)).sigmoid().unflatten(1, grid))
    maps = F.interpolate(torch.stack(maps, dim=1), masks.shape[2:], mode="bilinear")
    mixed = F.interpolate(0.3 * maps + 0.7 * masks, images.shape[2:], mode="bilinear")
    return torch.cat([torch.full_like(mixed[:, :1], 0.4), mixed], dim=1)


def clip_noun(name):
    from codeseg.mapper import noun_tokens

    return noun_tokens([name], 16)


@torch.no_grad()
def test_scores_as_transcribed(model):
    model.eval()
    images = model.normalize(record(size=(40, 64))["image"].float()[None])
    found = model.maps("sem_seg", model.encode(images))
    torch.testing.assert_close(found, transcribed_scores(model, images), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_has_no_cams(model):
    image = model.eval().infer(record()["image"].float()[None], (41, 61), (0, 1))
    with refused("source", "CoDe", "sem_seg"):
        image.cams("cam", (1.0,), False)


def test_any_vocabulary(model):
    model.eval()
    before = model([record()])[0]["sem_seg"]
    model.set_vocabulary(["wheel", "leaf"])
    assert model.class_names == ("background", "wheel", "leaf")
    assert model([record()])[0]["sem_seg"].shape == (3, 41, 61)
    model.set_vocabulary(["red fish", "leaf", "crate"])
    assert torch.equal(model([record()])[0]["sem_seg"], before)


def test_texts_of_the_classes_follow_the_model(model):
    before = model.eval().class_texts()
    assert model.class_texts() is before
    assert model.to("cpu").class_texts() is not before  # as after a move to another device


def test_words_are_embedded_anew_after_a_step(model):
    model.eval()
    before = model([record()])[0]["sem_seg"]
    with torch.no_grad():
        model.noun_prompt.context.add_(1.0)
    assert torch.equal(model([record()])[0]["sem_seg"], before)
    assert not torch.equal(model.train().eval()([record()])[0]["sem_seg"], before)


@torch.no_grad()
def test_similarities(model):
    model.eval()
    images = model.normalize(record()["image"].float()[None])
    texts = model.embed_texts(["leaf", "bed", "bed"], ["a photo of a {}.", "art of the {}."])
    assert texts.shape == (3, 64)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    cosines = model.similarities(images, texts)
    assert cosines.shape == (1, 3, 41, 61)
    assert cosines.abs().max() <= 1 + 1e-5
    assert torch.equal(cosines[:, 1], cosines[:, 2])


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([], "0 names"),
        (["leaf", " "], "empty"),
        (["leaf", "leaf"], "2 times"),
        (["background", "leaf"], "background"),
        (["word " * 70], "tokens"),
        ([f"word{i}" for i in range(300)], "300 names"),
    ],
)
def test_vocabularies_that_cannot_be(model, names, word):
    with refused("vocabulary", word):
        model.set_vocabulary(names)


def test_another_clip_is_refused(model, code_cfg):
    state = model.state_dict()
    assert not [name for name in state if name.startswith("clip.")]
    state["clip_mark"] = state["clip_mark"] + 1
    with refused("MODEL.CLIP.WEIGHTS", "another CLIP"):
        model.load_state_dict(state)


def test_crops_are_filled_by_patches(code_cfg):
    code_cfg.INPUT.CROP.SIZE = [38, 38]
    with refused("INPUT.CROP.SIZE", "patches have 8 pixels"):
        build_model(code_cfg)


def test_no_vocabulary(code_cfg):
    code_cfg.merge_from_list(["MODEL.CLASS_NAMES", (), "MODEL.PROMPT_NAMES", ()])
    model = build_model(code_cfg).eval()
    with refused("MODEL.CLASS_NAMES"):
        model([record()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, batch, dtype):
    with torch.autocast("cpu", dtype=dtype):
        losses = losses_at(model, batch, 5)
    exact = losses_at(model, batch, 5)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for name, loss in losses.items():
        torch.testing.assert_close(loss, exact[name], atol=0.1, rtol=0.1, msg=name)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name


def test_a_single_pair(model, batch):
    """One image with one noun: there are no others to contrast with."""
    import dataclasses

    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    fields = {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in fields.items()}
    for name in ("noun_tokens", "prompt_tokens"):
        fields[name] = fields[name][:, :1]
    fields["word_labels"] = fields["word_labels"].clamp(max=1)
    losses = losses_at(model, CaptionBatch(**fields), 5)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_neg_area"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

# SPDX-License-Identifier: Apache-2.0
"""Class embeddings of a config: each source, and the disk cache."""

import json
import logging

import open_clip
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from helpers import refused
from safetensors.torch import load_file, save_file

from dalnet.config import add_dalnet_config
from dalnet.modeling.clip import build_text_embeddings, embeddings
from dalnet.modeling.clip.embeddings import center, untrained_text_tower

WORDS = ["aeroplane", "dining table", "cat"]


@pytest.fixture(scope="module")
def model(make_clip):
    return make_clip()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture
def cfg(weights, tmp_path):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.CLASS_NAMES = ["background", "aeroplane", "diningtable", "cat"]
    cfg.MODEL.PROMPT_NAMES = WORDS
    cfg.MODEL.CLIP.WEIGHTS = weights
    cfg.MODEL.CLIP.EMBED_DIM = 32
    cfg.MODEL.CLIP.CACHE_DIR = str(tmp_path / "cache")
    cfg.MODEL.CLIP.CENTER = False
    return cfg


@pytest.fixture
def loaded(monkeypatch):
    """Counts how often a CLIP is loaded."""
    calls = []

    def count(*args):
        calls.append(args)
        return load(*args)

    load = embeddings.load_clip
    monkeypatch.setattr(embeddings, "load_clip", count)
    return calls


@pytest.fixture
def warnings():
    """Messages of the module's own logger, wherever its parents send them."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    embeddings.logger.addHandler(handler)
    yield records
    embeddings.logger.removeHandler(handler)


def build(cfg):
    return torch.cat(build_text_embeddings(cfg))


def test_equals_clip_on_the_prompts_of_the_paper(cfg, model):
    fg, bg = build_text_embeddings(cfg)
    prompts = [f"a photo of {word}" for word in [*WORDS, "background"]]
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(prompts, 9), normalize=True)
    torch.testing.assert_close(fg, expected[:3])
    torch.testing.assert_close(bg, expected[3:])
    assert fg.dtype == torch.float32 and not fg.requires_grad and not fg.is_inference()


def test_centered_embeddings_are_what_tells_the_prompts_apart(cfg, tmp_path):
    plain = build(cfg)
    cfg.MODEL.CLIP.CENTER = True
    rows = plain.double().tolist()
    mean = [sum(column) / 4 for column in zip(*rows, strict=True)]
    for row, got in zip(rows, build(cfg).tolist(), strict=True):
        difference = [value - m for value, m in zip(row, mean, strict=True)]
        length = sum(value**2 for value in difference) ** 0.5
        assert got == pytest.approx([value / length for value in difference], abs=1e-5)
    # The cache holds the embeddings as CLIP gives them, so that the key may change.
    (file,) = (tmp_path / "cache").iterdir()
    assert torch.equal(load_file(file)["embeddings"], plain)


def test_prompts_that_are_all_the_same_have_no_direction():
    assert torch.equal(center(F.normalize(torch.ones(3, 8), dim=1)), torch.zeros(3, 8))


def test_cache_is_used_and_keyed(cfg, loaded, model, tmp_path):
    first = build(cfg)
    assert torch.equal(first, build(cfg)) and len(loaded) == 1
    changed = {key: value + 0.1 for key, value in model.state_dict().items()}
    save_file(changed, tmp_path / "other.safetensors")
    changes = {
        "PROMPT_NAMES": WORDS[::-1],
        "CLIP.BACKGROUND": "sky",
        "CLIP.TEMPLATE": "a drawing of {}",
        "CLIP.NAME": "ViT-B-16-quickgelu",
        "CLIP.WEIGHTS": str(tmp_path / "other.safetensors"),
    }
    for times, (key, value) in enumerate(changes.items(), 2):
        cfg.merge_from_list([f"MODEL.{key}", value])
        build(cfg)
        assert len(loaded) == times
    files = [path.suffix for path in (tmp_path / "cache").iterdir()]
    assert files == [".safetensors"] * 6


def test_cache_knows_the_provider(cfg, monkeypatch):
    cfg.MODEL.CLIP.NAME = "ViT-B-16-quickgelu"
    build(cfg)
    cfg.MODEL.CLIP.PROVIDER = "other"
    with pytest.raises(KeyError, match="other"):
        build(cfg)


@pytest.mark.parametrize("harm", ["cut", "rows", "key", "nan"])
def test_corrupt_cache_is_computed_anew(cfg, loaded, warnings, tmp_path, harm):
    good = build(cfg)
    (file,) = (tmp_path / "cache").iterdir()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:40])
    else:
        wrong = {"rows": good[:2], "key": good, "nan": good / 0}[harm].clone()
        save_file({"other" if harm == "key" else "embeddings": wrong}, file)
    assert torch.equal(build(cfg), good)
    assert len(loaded) == 2 and file.name in warnings[0]
    assert torch.equal(load_file(file)["embeddings"], good)  # mended


def test_cache_that_cannot_be_written(cfg, warnings, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert build(cfg).shape == (4, 32) and str(tmp_path / "cache") in warnings[0]


def test_cache_folder_from_the_environment(cfg, tmp_path, monkeypatch):
    cfg.MODEL.CLIP.CACHE_DIR = ""
    monkeypatch.setenv("DALNET_CACHE", str(tmp_path / "elsewhere"))
    build(cfg)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    monkeypatch.delenv("DALNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    build(cfg)
    assert len(list((tmp_path / "home/.cache/dalnet").iterdir())) == 1


def test_ready_embeddings(cfg, tmp_path, loaded):
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).half()
    names = ["sky", "cat", "aeroplane", "background", "dining table", "diningtable"]
    path = tmp_path / "texts.safetensors"
    save_file({"embeddings": rows}, path, {"names": json.dumps(names)})
    cfg.MODEL.CLIP.SOURCE, cfg.MODEL.CLIP.WEIGHTS = "embeddings", str(path)
    expected = F.normalize(rows.float(), dim=1)
    fg, bg = build_text_embeddings(cfg)
    torch.testing.assert_close(fg, expected[[2, 5, 1]])
    torch.testing.assert_close(bg, expected[[3]])
    cfg.MODEL.CLIP.BACKGROUND = "sky"
    torch.testing.assert_close(build_text_embeddings(cfg)[1], expected[[0]])
    cfg.MODEL.CLIP.CENTER = True
    torch.testing.assert_close(build(cfg), center(expected[[2, 5, 1, 0]]))
    cfg.MODEL.CLIP.EMBED_DIM = 512
    with refused("MODEL.CLIP.EMBED_DIM", "texts.safetensors"):
        build(cfg)
    cfg.MODEL.CLIP.BACKGROUND = "ground"
    with refused("texts.safetensors", "'ground'"):
        build(cfg)
    assert not loaded and not (tmp_path / "cache").exists()


def test_several_background_words(cfg, model):
    cfg.MODEL.CLIP.BACKGROUND = "sky, green grass"
    fg, bg = build_text_embeddings(cfg)
    prompts = [f"a photo of {word}" for word in [*WORDS, "sky", "green grass"]]
    with torch.no_grad():
        rows = model.encode_text(open_clip.tokenize(prompts, 9), normalize=True)
    torch.testing.assert_close(fg, rows[:3])
    mean = F.normalize(rows[3:].mean(dim=0, keepdim=True))
    torch.testing.assert_close(bg, mean)
    # Centering counts t_bg once, however many words it is the mean of.
    cfg.MODEL.CLIP.CENTER = True
    torch.testing.assert_close(build(cfg), center(torch.cat([rows[:3], mean])))


@pytest.mark.parametrize("words", ["", "sky,", "sky, sky"])
def test_background_words_that_say_nothing(cfg, words):
    cfg.MODEL.CLIP.BACKGROUND = words
    with refused("MODEL.CLIP.BACKGROUND"):
        build(cfg)


@pytest.mark.parametrize("source", ["tower", "untrained"])
@pytest.mark.parametrize("word", ["Cat", " background"])
def test_two_classes_with_one_text_are_refused(cfg, source, word):
    cfg.MODEL.CLIP.SOURCE = source
    cfg.MODEL.PROMPT_NAMES = (*WORDS[:2], "cat")
    build(cfg)
    cfg.MODEL.PROMPT_NAMES = (WORDS[0], word, "cat")
    with refused("MODEL.PROMPT_NAMES", cfg.MODEL.CLASS_NAMES[2], "the same text"):
        build(cfg)
    cfg.MODEL.CLIP.SOURCE = "codes"  # which do not depend on words
    build(cfg)


def test_untrained_codes(cfg, tmp_path):
    cfg.MODEL.CLIP.SOURCE = "untrained"
    codes = build(cfg)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(4))
    assert (codes @ codes.T - 2 * torch.eye(4)).max() < 0.999  # no two alike
    assert torch.equal(codes, build(cfg))
    cfg.MODEL.CLIP.SEED = 1
    assert not torch.allclose(codes, build(cfg), atol=1e-2)
    assert not (tmp_path / "cache").exists()


def test_untrained_tower_depends_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = untrained_text_tower(48, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    again, other = untrained_text_tower(48, seed=0), untrained_text_tower(48, seed=1)
    tokens = open_clip.tokenize(["a photo of a cat", "a photo of a dog"])
    assert torch.equal(first(tokens), again(tokens))
    assert not torch.allclose(first(tokens), other(tokens), atol=1e-2)
    assert first(tokens).shape == (2, 48)


def test_codes_are_orthonormal_and_depend_on_the_seed_alone(cfg, tmp_path):
    cfg.MODEL.CLIP.SOURCE = "codes"
    before = torch.get_rng_state()
    codes = build(cfg)
    assert codes.shape == (4, 32) and not codes.requires_grad
    torch.testing.assert_close(codes @ codes.T, torch.eye(4), atol=1e-6, rtol=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.randn(3)
    cfg.MODEL.PROMPT_NAMES = WORDS[::-1]
    assert torch.equal(codes, build(cfg))
    cfg.MODEL.CLIP.SEED = 1
    assert not torch.allclose(codes, build(cfg), atol=1e-2)
    assert not (tmp_path / "cache").exists()


def test_centered_codes_are_the_corners_of_a_simplex(cfg):
    cfg.MODEL.CLIP.SOURCE, cfg.MODEL.CLIP.CENTER = "codes", True
    codes = build(cfg)
    expected = torch.full((4, 4), -1 / 3).fill_diagonal_(1)
    torch.testing.assert_close(codes @ codes.T, expected, atol=1e-6, rtol=0)


def test_codes_need_a_dimension_each(cfg):
    cfg.MODEL.CLIP.SOURCE, cfg.MODEL.CLIP.EMBED_DIM = "codes", 3
    with refused("MODEL.CLIP.EMBED_DIM", "codes"):
        build(cfg)


def test_placeholders_for_a_checkpoint(cfg, loaded):
    cfg.MODEL.CLIP.SOURCE, cfg.MODEL.CLIP.CENTER = "checkpoint", True
    cfg.MODEL.CLIP.WEIGHTS = "gone.pt"
    fg, bg = build_text_embeddings(cfg)
    assert torch.equal(fg, torch.zeros(3, 32)) and torch.equal(bg, torch.zeros(1, 32))


def test_width_must_be_the_configured_one(cfg):
    cfg.MODEL.CLIP.EMBED_DIM = 512
    with refused("MODEL.CLIP.EMBED_DIM", "512", "clip.safetensors"):
        build(cfg)


def test_unknown_source(cfg):
    cfg.MODEL.CLIP.SOURCE = "openai"
    with pytest.raises(ValueError, match="MODEL.CLIP.SOURCE is 'openai'"):
        build(cfg)


def test_bad_template(cfg):
    cfg.MODEL.CLIP.TEMPLATE = "a photo"
    with refused("MODEL.CLIP.TEMPLATE"):
        build(cfg)

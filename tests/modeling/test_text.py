# SPDX-License-Identifier: Apache-2.0
"""Prompts, their embeddings and the disk cache."""

import logging

import open_clip
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file

from dalnet.config import add_dalnet_config
from dalnet.errors import UsageError
from dalnet.modeling import text
from dalnet.modeling.text import build_text_embeddings, center

NAMES = ["aeroplane", "dining table", "cat"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)
    config = CLIPTextCfg(context_length=12, width=64, heads=1, layers=1)
    return CLIP(32, vision, config).eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture
def cfg(weights, tmp_path):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.MODEL.TEXT.WEIGHTS = weights
    cfg.MODEL.TEXT.EMBED_DIM = 32
    cfg.MODEL.TEXT.CACHE_DIR = str(tmp_path / "cache")
    cfg.MODEL.TEXT.CENTER = False
    return cfg


@pytest.fixture
def built(monkeypatch):
    """Counts how often a text tower is built."""
    calls = []

    def count(*args, **options):
        calls.append(args)
        return load(*args, **options)

    load = text.load_text_tower
    monkeypatch.setattr(text, "load_text_tower", count)
    return calls


@pytest.fixture
def warnings():
    """Messages of the module's own logger, wherever its parents send them."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    text.logger.addHandler(handler)
    yield records
    text.logger.removeHandler(handler)


def test_equals_clip_on_the_prompts_of_the_paper(cfg, model):
    fg, bg = build_text_embeddings(cfg, NAMES)
    prompts = [f"a photo of {name}" for name in [*NAMES, "background"]]
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(prompts, 12), normalize=True)
    torch.testing.assert_close(fg, expected[:3])
    torch.testing.assert_close(bg, expected[3:])
    assert fg.dtype == torch.float32 and not fg.requires_grad and not fg.is_inference()


def test_centred_embeddings_are_what_tells_the_prompts_apart(cfg, tmp_path):
    plain = torch.cat(build_text_embeddings(cfg, NAMES))
    cfg.MODEL.TEXT.CENTER = True
    fg, bg = build_text_embeddings(cfg, NAMES)
    rows = plain.double().tolist()
    mean = [sum(column) / 4 for column in zip(*rows, strict=True)]
    for row, got in zip(rows, torch.cat([fg, bg]).tolist(), strict=True):
        difference = [value - m for value, m in zip(row, mean, strict=True)]
        length = sum(value**2 for value in difference) ** 0.5
        assert got == pytest.approx([value / length for value in difference], abs=1e-5)
    # The cache holds the embeddings as CLIP gives them, so that the key may change.
    (file,) = (tmp_path / "cache").iterdir()
    assert torch.equal(load_file(file)["embeddings"], plain)


def test_prompts_that_are_all_the_same_have_no_direction():
    assert torch.equal(center(F.normalize(torch.ones(3, 8), dim=1)), torch.zeros(3, 8))


def test_more_prompts_than_a_batch(cfg):
    names = [f"thing {i}" for i in range(2 * text._BATCH + 3)]
    fg, bg = build_text_embeddings(cfg, names)
    assert fg.shape == (len(names), 32) and bg.shape == (1, 32)
    alone, _ = build_text_embeddings(cfg, names[-1:])
    torch.testing.assert_close(fg[-1:], alone)


def test_cache_is_used_and_keyed(cfg, built, model, tmp_path):
    first = build_text_embeddings(cfg, NAMES)
    again = build_text_embeddings(cfg, NAMES)
    assert len(built) == 1 and torch.equal(torch.cat(first), torch.cat(again))
    build_text_embeddings(cfg, NAMES[::-1])
    cfg.MODEL.TEXT.TEMPLATE = "a drawing of {}"
    build_text_embeddings(cfg, NAMES)
    cfg.MODEL.TEXT.NAME = "ViT-B-16-quickgelu"
    build_text_embeddings(cfg, NAMES)
    assert len(built) == 4
    changed = {key: value + 0.1 for key, value in model.state_dict().items()}
    save_file(changed, tmp_path / "other.safetensors")
    cfg.MODEL.TEXT.WEIGHTS = str(tmp_path / "other.safetensors")
    build_text_embeddings(cfg, NAMES)
    assert len(built) == 5
    files = sorted(path.suffix for path in (tmp_path / "cache").iterdir())
    assert files == [".safetensors"] * 5


@pytest.mark.parametrize("harm", ["cut", "rows", "key", "nan"])
def test_corrupt_cache_is_computed_anew(cfg, built, warnings, tmp_path, harm):
    good = torch.cat(build_text_embeddings(cfg, NAMES))
    (file,) = (tmp_path / "cache").iterdir()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:40])
    else:
        wrong = {"rows": good[:2], "key": good, "nan": good / 0}[harm].clone()
        save_file({"other" if harm == "key" else "embeddings": wrong}, file)
    assert torch.equal(torch.cat(build_text_embeddings(cfg, NAMES)), good)
    assert len(built) == 2 and "computed anew" in warnings[0] and file.name in warnings[0]
    assert torch.equal(load_file(file)["embeddings"], good)  # mended


def test_cache_that_cannot_be_written(cfg, warnings, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    fg, _ = build_text_embeddings(cfg, NAMES)
    assert fg.shape == (3, 32) and "cannot be cached" in warnings[0]


def test_cache_folder_from_the_environment(cfg, tmp_path, monkeypatch):
    cfg.MODEL.TEXT.CACHE_DIR = ""
    monkeypatch.setenv("DALNET_CACHE", str(tmp_path / "elsewhere"))
    build_text_embeddings(cfg, NAMES)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    monkeypatch.delenv("DALNET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    build_text_embeddings(cfg, NAMES)
    assert len(list((tmp_path / "home/.cache/dalnet").iterdir())) == 1


def test_untrained_codes(cfg, tmp_path):
    cfg.MODEL.TEXT.WEIGHTS = "untrained"
    fg, bg = build_text_embeddings(cfg, NAMES)
    assert fg.shape == (3, 32) and bg.shape == (1, 32)
    codes = torch.cat([fg, bg])
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(4))
    assert (codes @ codes.T - 2 * torch.eye(4)).max() < 0.999  # no two alike
    assert torch.equal(codes, torch.cat(build_text_embeddings(cfg, NAMES)))
    cfg.MODEL.TEXT.SEED = 1
    assert not torch.allclose(codes, torch.cat(build_text_embeddings(cfg, NAMES)), atol=1e-2)
    assert not (tmp_path / "cache").exists()


def test_codes_are_orthonormal_and_depend_on_the_seed_alone(cfg, tmp_path):
    cfg.MODEL.TEXT.WEIGHTS = "codes"
    before = torch.get_rng_state()
    codes = torch.cat(build_text_embeddings(cfg, NAMES))
    assert codes.shape == (4, 32) and not codes.requires_grad
    torch.testing.assert_close(codes @ codes.T, torch.eye(4), atol=1e-6, rtol=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.randn(3)
    assert torch.equal(codes, torch.cat(build_text_embeddings(cfg, NAMES[::-1])))
    cfg.MODEL.TEXT.SEED = 1
    assert not torch.allclose(codes, torch.cat(build_text_embeddings(cfg, NAMES)), atol=1e-2)
    assert not (tmp_path / "cache").exists()


def test_centred_codes_are_the_corners_of_a_simplex(cfg):
    cfg.MODEL.TEXT.WEIGHTS, cfg.MODEL.TEXT.CENTER = "codes", True
    codes = torch.cat(build_text_embeddings(cfg, NAMES))
    expected = torch.full((4, 4), -1 / 3).fill_diagonal_(1)
    torch.testing.assert_close(codes @ codes.T, expected, atol=1e-6, rtol=0)


def test_codes_need_a_dimension_each(cfg):
    cfg.MODEL.TEXT.WEIGHTS, cfg.MODEL.TEXT.EMBED_DIM = "codes", 3
    with pytest.raises(UsageError, match=r"each of the 4 classes .*EMBED_DIM is 3"):
        build_text_embeddings(cfg, NAMES)


def test_placeholders_for_a_checkpoint(cfg):
    cfg.MODEL.TEXT.WEIGHTS, cfg.MODEL.TEXT.CENTER = "checkpoint", True
    fg, bg = build_text_embeddings(cfg, NAMES)
    assert torch.equal(fg, torch.zeros(3, 32)) and torch.equal(bg, torch.zeros(1, 32))


def test_width_must_be_the_configured_one(cfg):
    cfg.MODEL.TEXT.EMBED_DIM = 512
    with pytest.raises(UsageError, match=r"EMBED_DIM is 512, .*clip.safetensors.* width 32"):
        build_text_embeddings(cfg, NAMES)


@pytest.mark.parametrize("template", ["a photo", "{name}", "{", "{0} {1}", ""])
def test_template_needs_one_place(cfg, template):
    cfg.MODEL.TEXT.TEMPLATE = template
    with pytest.raises(UsageError, match="MODEL.TEXT.TEMPLATE .* needs one {}"):
        build_text_embeddings(cfg, NAMES)

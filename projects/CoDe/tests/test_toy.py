# SPDX-License-Identifier: Apache-2.0
"""The toy world with captions, and the recipes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers import refused
from PIL import Image

from codeseg.caption_files import find_caption_files, read_captions
from codeseg.captions import pseudo_word_labels
from codeseg.toy import CAPTIONS, UNSEEN, draw_captioned, ensure_toy_captions
from codeseg.toy_compositions import COMPOSITIONS, ensure_toy_compositions
from dalnet.config import load_config
from dalnet.config.validation import check_values
from dalnet.data.datasets.toy import TOY_CLASSES, TOY_LOOKS
from dalnet.data.image_io import read_mask
from dalnet.engine import Trainer, setup
from dalnet.evaluation.zero_shot_run import evaluate_zero_shot

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def draw(count):
    return [draw_captioned(np.random.default_rng((1, number))) for number in range(count)]


def test_captions_name_what_is_shown():
    drawn = draw(60)
    assert {tuple(image.shape) for image, _, _ in drawn} == {(96, 96, 3)}
    for _, caption, nouns in drawn:
        assert len(set(nouns)) >= 2
        # Every noun is found in its caption.
        labels = pseudo_word_labels(caption, nouns, nouns[:2])
        assert {1, 2} <= set(labels)
        assert not set(nouns) & set(UNSEEN)
    named = {noun for _, _, nouns in drawn for noun in nouns}
    assert named >= set(TOY_CLASSES) - set(UNSEEN)
    assert named & {"morning", "day", "friend"}


def test_what_is_unseen_has_looks_of_its_own():
    unseen = [TOY_LOOKS[TOY_CLASSES.index(name)] for name in UNSEEN]
    others = [look for look, name in zip(TOY_LOOKS, TOY_CLASSES, strict=True) if name not in UNSEEN]
    assert not {look.shape for look in unseen} & {look.shape for look in others}
    assert unseen[1].texture not in {look.texture for look in others}


def test_they_are_generated_once_and_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("codeseg.toy.NUM_IMAGES", 3)
    monkeypatch.setattr("codeseg.caption_files.ensure_toy_captions",
                        lambda root: ensure_toy_captions(root, 3))  # fmt: skip
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (file,) = find_caption_files((str(CAPTIONS),))
    lines = read_captions(file)
    assert len(lines) == 3
    first = Image.open(file.parent / lines[0]["image"]).tobytes()
    before = file.stat().st_mtime_ns
    find_caption_files((str(CAPTIONS),))
    assert file.stat().st_mtime_ns == before
    ensure_toy_captions(tmp_path / "again", 3)
    assert (tmp_path / "again" / CAPTIONS).read_text() == file.read_text()
    assert Image.open(tmp_path / "again" / "toy_captions" / "00000.png").tobytes() == first
    assert not list(tmp_path.glob(".toy_captions-*"))


def test_compositions_are_of_no_class_and_in_no_caption(tmp_path):
    shown = {(look.palette, look.shape) for look in TOY_LOOKS}
    assert len(COMPOSITIONS) == 6 and not shown & {tuple(name.split()) for name in COMPOSITIONS}
    said = " ".join(caption for _, caption, _ in draw(200)).split()
    assert "red" in said and not {"star", "square"} & set(said)
    ensure_toy_compositions(tmp_path / "new", 30)
    ensure_toy_compositions(tmp_path / "again", 30)
    seen = set()
    for number, names in json.loads((tmp_path / "new" / "image_tags.json").read_text()).items():
        mask = read_mask(str(tmp_path / f"new/SegmentationClass/{number}.png"), (96, 96), 7, 255)
        values = set(np.unique(mask).tolist()) - {0}
        assert names == [COMPOSITIONS[value - 1] for value in sorted(values)]
        images = [
            np.array(Image.open(tmp_path / folder / "JPEGImages" / f"{number}.png"))
            for folder in ("new", "again")
        ]
        assert np.array_equal(*images)
        seen |= values
    assert seen == {1, 2, 3, 4, 5, 6}


def test_compositions_can_be_measured(tmp_path, clip_file, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    ensure_toy_compositions(tmp_path / "toy_compositions", 2)
    cfg = load_config(
        str(CONFIGS / "naclip.yaml"),
        [
            *("MODEL.CLIP.NAME", "ViT-B-16-quickgelu", "MODEL.CLIP.WEIGHTS", str(clip_file)),
            *("MODEL.DEVICE", "cpu"),
        ],
    )
    preset = "sclip:short_side=32,crop=32,stride=32"
    result = evaluate_zero_shot(build_model(cfg).eval(), "toy_compositions_val", preset)
    assert set(result["iou"]) == {"background", *COMPOSITIONS} and result["images"] == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "toy_captions").mkdir()
    (tmp_path / "toy_captions" / "own.txt").write_text("")
    with refused(tmp_path / "toy_captions"):
        ensure_toy_captions(tmp_path, 1)


@pytest.mark.parametrize("name", ["code", "toy_code", "naclip"])
def test_recipes_are_valid(name):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"])
    check_values(cfg)


def test_the_published_recipe():
    cfg = load_config(str(CONFIGS / "code.yaml"))
    solver = cfg.SOLVER
    assert pytest.approx(3.2e-4 * solver.IMS_PER_BATCH / 4096) == solver.BASE_LR
    assert pytest.approx(6.25e-7) == solver.BASE_LR * solver.MIN_LR_FACTOR
    assert (solver.EPS, solver.WEIGHT_DECAY, solver.MAX_ITER) == (1e-6, 0.05, 50000)
    assert cfg.MODEL.CODE.UNFREEZE_ITER == 30000


def test_the_toy_recipe_with_a_clip_of_random_weights(tmp_path, clip_file, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr("codeseg.caption_files.ensure_toy_captions",
                        lambda root: ensure_toy_captions(root, 8))  # fmt: skip
    cfg = load_config(
        str(CONFIGS / "toy_code.yaml"),
        [
            *("MODEL.CLIP.NAME", "ViT-B-16-quickgelu", "MODEL.CLIP.WEIGHTS", str(clip_file)),
            *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATASETS.TEST", "()"),
            *("INPUT.CROP.SIZE", "[32,32]", "OUTPUT_DIR", str(tmp_path / "output")),
            *("MODEL.CODE.UNFREEZE_ITER", "1", "MODEL.CODE.SCORES.REFINEMENT_STEPS", "1"),
        ],
    )
    trainer = Trainer(setup(cfg))
    trainer.resume_or_load(resume=False)
    trainer.train()
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    assert lines
    assert all(np.isfinite(json.loads(line)["total_loss"]) for line in lines)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    result = evaluate_zero_shot(model, "toy_val", "tcl:short_side=32,crop=32,stride=16", limit=2)
    assert set(result["iou"]) == {"background", *TOY_CLASSES}

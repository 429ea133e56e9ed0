# SPDX-License-Identifier: Apache-2.0
"""A second system trains, resumes, evaluates, predicts, is drawn and reported by every command."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers import write_voc_tree
from PIL import Image

from dalnet.checkpoint import Checkpointer, config_of_checkpoint, load_model
from dalnet.config import load_config
from dalnet.data.datasets import register_voc_layout
from dalnet.engine import setup
from dalnet.engine.train import argument_parser, main
from dalnet.errors import UsageError
from dalnet.evaluation.run import evaluate
from dalnet.figures.heat_maps import draw_cams
from dalnet.figures.images import predict_images
from dalnet.figures.layout import save_figure
from dalnet.prediction import Predictor
from dalnet.report.run import write_report
from systems import tiny  # noqa: F401  registers

CLASSES = ["red", "green", "blue"]
SPLIT = "tiny_val"
CONFIG = """
MODEL:
  META_ARCHITECTURE: TinyCAM
  DEVICE: cpu
  BACKBONE: {NAME: TinyCNN}
  SEM_SEG_HEAD: {NUM_CLASSES: 4}
  CAM: {SCALES: [1.0]}
  PAR: {NUM_ITERS: 1, DILATIONS: [1, 2]}
INPUT: {DATASET_MAPPER_NAME: TinyMapper, CROP: {SIZE: [24, 24]}, MIN_SIZE_TEST: 24}
DATASETS: {TRAIN: [tiny_val], TEST: [tiny_val]}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 4, MAX_ITER: 60, BASE_LR: 0.02, WARMUP_ITERS: 0, HEAD_LR_MULTIPLIER: 1.0}
SEED: 3
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training of six images, each of which shows a square in its class's color."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 110, (24, 30, 3), dtype=np.uint8) for _ in range(6)]
    masks = np.zeros((6, 24, 30), np.uint8)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        image[6:18, 8:20] = 40
        image[6:18, 8:20, i % 3], mask[6:18, 8:20] = 220, i % 3 + 1
    write_voc_tree(root, images, masks, [[CLASSES[i % 3]] for i in range(6)])
    register_voc_layout(SPLIT, root, CLASSES, split="val")
    (root / "tiny.yaml").write_text(CONFIG)
    train(root)
    return root / "run"


def train(root, *arguments):
    argv = ["--config-file", str(root / "tiny.yaml"), *arguments, "OUTPUT_DIR", str(root / "run")]
    return main(argument_parser().parse_args(argv))


def test_it_learns_and_its_results_are_written(run):
    results = json.loads((run / "evaluation" / SPLIT / "results.json").read_text())
    assert results["system"] == "TinyCAM"
    found = {one["source"]: one["miou"] for one in results["measurements"]}
    assert set(found) == {"cam", "pseudo_label"}
    assert found["cam"] > 60


def test_it_goes_on_where_it_was(run):
    results = train(run.parent, "--resume", "SOLVER.MAX_ITER", "64")
    assert set(results) == {"cam", "pseudo_label"}
    state = torch.load(run / "model_final.pth", weights_only=True)
    assert state["iteration"] == 63


def test_the_evaluation_command_measures_its_sources(run, tmp_path):
    cfg = setup(config_of_checkpoint(run, ["OUTPUT_DIR", str(tmp_path)]), eval_only=True)
    result = evaluate(cfg, SPLIT, protocols=["ss", "ms+flip"], output=tmp_path)
    sources = [(one["source"], one["protocol"]) for one in result["measurements"]]
    assert sources == [(s, p) for s in ("cam", "pseudo_label") for p in ("ss", "ms+flip")]
    with pytest.raises(UsageError, match="cam, pseudo_label"):
        evaluate(cfg, SPLIT, sources=["sem_seg"], output=tmp_path)


def test_it_predicts_the_classes_that_it_is_told(run):
    predictor = Predictor(run)
    path = str(run.parent / "JPEGImages" / "1.png")
    prediction = predictor(path, image_classes=["green"])
    assert prediction.class_names == ("background", *CLASSES)
    assert set(np.unique(prediction.labels)) == {0, 2}
    inside = prediction.labels[8:16, 10:18]
    assert inside.mean() > 1.7 and prediction.labels[:, :4].mean() < 0.3
    with pytest.raises(UsageError, match="red, green, blue"):
        predictor(path)


def test_it_is_drawn_and_reported(run, tmp_path):
    cfg = setup(config_of_checkpoint(run, ["OUTPUT_DIR", str(tmp_path)]), eval_only=True)
    records = DatasetCatalog.get(SPLIT)[:2]
    results = list(predict_images(cfg, load_model(cfg), SPLIT, records))
    assert all(len(result.cams) == 1 for result in results)
    save_figure(tmp_path / "cams.png", draw_cams(results, SPLIT, False))
    assert Image.open(tmp_path / "cams.png").size[0] > 100
    write_report(cfg, SPLIT, tmp_path / "page.html", config_name="tiny.yaml", images=1)
    assert "CAM" in (tmp_path / "page.html").read_text()


def test_its_rules_hold(run, tmp_path):
    cfg = load_config(str(run.parent / "tiny.yaml"), ["MODEL.TINY.WIDTH", "0"])
    with pytest.raises(UsageError, match="MODEL.TINY.WIDTH"):
        setup(cfg)


def test_another_systems_checkpoint_does_not_fit(run, tiny_cfg):
    from detectron2.modeling import build_model

    tiny_cfg.MODEL.CLASS_NAMES = ("background", *CLASSES)
    tiny_cfg.MODEL.PROMPT_NAMES = tuple(CLASSES)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    with pytest.raises(UsageError, match="TinyCAM"):
        Checkpointer(build_model(tiny_cfg)).load(str(run / "model_final.pth"))

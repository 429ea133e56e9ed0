# SPDX-License-Identifier: Apache-2.0
"""Both stages train, resume, evaluate, predict, are drawn and reported by every command."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from helpers import refused
from PIL import Image

from dalnet.checkpoint import config_of_checkpoint, load_model
from dalnet.config import load_config
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.engine import setup
from dalnet.engine.train import argument_parser, main
from dalnet.errors import UsageError
from dalnet.evaluation.run import evaluate
from dalnet.figures.heat_maps import draw_cams
from dalnet.figures.images import predict_images
from dalnet.figures.layout import save_figure
from dalnet.prediction import Predictor
from dalnet.report.run import write_report


@pytest.fixture
def train(tmp_path, toy_split):
    """Trains a config in a folder, and returns the results."""

    def run(cfg, folder, *options, resume=False):
        cfg = cfg.clone()
        cfg.merge_from_list(["DATASETS.TRAIN", (toy_split,), "DATASETS.TEST", (toy_split,)])
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        (tmp_path / f"{folder}.yaml").write_text(cfg.dump())
        argv = ["--config-file", str(tmp_path / f"{folder}.yaml"), *map(str, options)]
        argv[2:2] = ["--resume"] if resume else []
        return main(argument_parser().parse_args(argv))

    return run


@pytest.fixture
def stage0(train, stage0_cfg, tmp_path):
    """The checkpoint of a short training of stage 0."""
    results = train(stage0_cfg, "stage0")
    assert set(results) == {"cam"}
    return tmp_path / "stage0" / "model_final.pth"


def test_from_stage_0_to_a_report(train, stage0, clims_cfg, tmp_path, toy_split):
    clims_cfg.MODEL.WEIGHTS = str(stage0)
    results = train(clims_cfg, "clims")
    assert set(results) == {"cam"}
    run = tmp_path / "clims"
    written = json.loads((run / "evaluation" / toy_split / "results.json").read_text())
    assert written["system"] == "CLIMS"
    metrics = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert {"loss_otm", "loss_btm", "loss_cbs", "loss_reg"} <= metrics[0].keys()

    # It goes on, with a CLIP that the checkpoint does not hold.
    train(clims_cfg, "clims", "SOLVER.MAX_ITER", 4, resume=True)
    state = torch.load(run / "model_final.pth", weights_only=True)
    assert state["iteration"] == 3
    assert not any("clip" in key for key in state["model"])

    # Everything else does without CLIP.
    opts = ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.CLIP.WEIGHTS", "gone.pt"]
    cfg = setup(config_of_checkpoint(run, opts), eval_only=True)
    result = evaluate(cfg, toy_split, protocols=["ss", "ms+flip+crf"], output=tmp_path / "out")
    found = [(one["source"], one["protocol"]) for one in result["measurements"]]
    assert found == [("cam", "ss"), ("cam", "ms+flip+crf")]
    records = DatasetCatalog.get(toy_split)[:2]
    images = list(predict_images(cfg, load_model(cfg), toy_split, records))
    save_figure(tmp_path / "cams.png", draw_cams(images, toy_split, False))
    assert Image.open(tmp_path / "cams.png").size[0] > 100
    write_report(cfg, toy_split, tmp_path / "page.html", config_name="clims.yaml", images=1)
    assert "CAM" in (tmp_path / "page.html").read_text()

    predictor = Predictor(run)
    path = records[0]["file_name"]
    prediction = predictor(path, image_classes=["moon"])
    assert set(np.unique(prediction.labels)) <= {0, 1 + TOY_CLASSES.index("moon")}
    assert prediction.cams["moon"].max() > 0.99
    with pytest.raises(UsageError, match="name those that the image shows"):
        predictor(path)


def test_the_weights_of_stage_0_are_taken_over(train, stage0, clims_cfg, tmp_path):
    clims_cfg.MODEL.WEIGHTS = str(stage0)
    clims_cfg.merge_from_list(["SOLVER.BASE_LR", 0.0, "SOLVER.MAX_ITER", 1])
    train(clims_cfg, "clims")
    before, after = (
        torch.load(tmp_path / folder / "model_final.pth", weights_only=True)["model"]
        for folder in ("stage0", "clims")
    )
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    # Live statistics, those of the frozen stem too.
    assert moved == {key for key in before if "running" in key or "num_batches" in key}


def test_a_stage_0_of_another_width_or_of_other_classes_is_refused(
    train, stage0, clims_cfg, tmp_path
):
    clims_cfg.MODEL.WEIGHTS = str(stage0)
    with pytest.raises(UsageError, match="model_final.pth.*does not fit the config: backbone"):
        train(clims_cfg, "wide", "MODEL.CNN.NAME", "resnet18")
    state = torch.load(stage0, weights_only=True)
    names = state["dalnet"]["class_names"]
    names[1], names[2] = names[2], names[1]
    torch.save(state, stage0)
    with pytest.raises(UsageError, match="other classes"):
        train(clims_cfg, "other")


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("MODEL.CLIP.SOURCE", "untrained"), "MODEL.CLIP.SOURCE"),
        (("MODEL.BACKBONE.NAME", "TimmViT"), "MODEL.BACKBONE.NAME"),
        (("MODEL.CLIMS.CLIP_PIXEL_MEAN", "(1.0,2.0,3.0)"), "MODEL.CLIMS.CLIP_PIXEL_STD"),
        (("MODEL.CLIMS.CLIP_PIXEL_MEAN", "(1.0,)"), "MODEL.CLIMS.CLIP_PIXEL_MEAN"),
    ],
)
def test_values_that_do_not_fit(clims_cfg, tmp_path, options, where):
    (tmp_path / "clims.yaml").write_text(clims_cfg.dump())
    with refused(where):
        setup(load_config(str(tmp_path / "clims.yaml"), options))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.CLIMS.OTM_WEIGHT", "0.0"),
        ("MODEL.CLIMS.CBS_WEIGHT", "-1.0"),
        ("MODEL.CLIMS.CBS_THRESHOLD", "1.0"),
        ("MODEL.CLIMS.CLIP_CHUNK", "-1"),
        ("MODEL.CLIMS.VARIANT", "new"),
        ("MODEL.CNN.NORM", "GN"),
    ],
)
def test_rules(clims_cfg, tmp_path, key, value):
    (tmp_path / "clims.yaml").write_text(clims_cfg.dump())
    with pytest.raises(UsageError, match=key):
        setup(load_config(str(tmp_path / "clims.yaml"), [key, value]))

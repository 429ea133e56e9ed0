# SPDX-License-Identifier: Apache-2.0
"""The recipes say what the published code does, and the optimizer does what it says."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import dalnet.data  # noqa: F401  registers the data sets
from dalnet.config import load_config
from dalnet.config.validation import check_values
from dalnet.engine import Trainer
from dalnet.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(p.stem for p in CONFIGS.glob("*.yaml") if not p.stem.startswith("Base"))


def read(name):
    return load_config(str(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid(name):
    cfg = read(name)
    cfg.MODEL.DEVICE = "cpu"
    check_values(cfg)
    assert f"output/{name}" == cfg.OUTPUT_DIR
    # Stage 1 starts from stage 0, everything else from pre-trained weights.
    starts = cfg.MODEL.META_ARCHITECTURE == "CLIMS"
    assert (cfg.MODEL.CNN.WEIGHTS == "") == (cfg.MODEL.WEIGHTS != "") == starts


def of(cfg, *keys):
    return tuple(cfg[key] for key in keys)


def test_voc_and_coco_as_published():
    voc, coco = read("voc_clims"), read("coco_clims")
    weights = ("OTM_WEIGHT", "BTM_WEIGHT", "CBS_WEIGHT", "REG_WEIGHT", "CBS_THRESHOLD")
    assert of(voc.MODEL.CLIMS, *weights) == (10, 24, 1, 0.2, 0.26)
    assert of(coco.MODEL.CLIMS, *weights) == (2, 14, 1.25, 0.2, 0.285)
    assert voc.SOLVER.MAX_ITER == 10582 // 16 * 15 and voc.SOLVER.BASE_LR == 2.5e-4
    assert coco.SOLVER.MAX_ITER == 82081 // 16 // 2 * 8 and coco.SOLVER.BASE_LR == 5e-4
    assert (voc.SOLVER.IMS_PER_BATCH, coco.SOLVER.IMS_PER_BATCH) == (16, 32)
    for cfg in (voc, coco):
        assert of(cfg.SOLVER, "MOMENTUM", "OPTIMIZER", "WARMUP_ITERS") == (1e-4, "SGD", 0)
        assert cfg.MODEL.CLIP.TEMPLATE == "a photo of {}." and cfg.MODEL.CLIP.NAME == "ViT-B-32"
        assert of(cfg.MODEL.CAM, "SCALES", "FLIP", "NORMALIZE") == (
            (1.0, 0.5, 1.5, 2.0),
            "sum",
            "max",
        )
        assert cfg.INPUT.LONGER_SIDE_RANGE == (320, 640) and cfg.INPUT.CROP.SIZE == [512, 512]
        assert not cfg.MODEL.CLIMS.CLIP_PIXEL_MEAN and not cfg.MODEL.CLIMS.CBS_REFERENCE_BATCH


def test_stage_0_as_published():
    cfg = read("voc_clims_stage0")
    assert of(cfg.SOLVER, "BASE_LR", "HEAD_LR_MULTIPLIER", "MAX_ITER") == (0.1, 10, 661 * 5)
    assert cfg.MODEL.CNN.NORM == "FixedBN" and read("voc_clims").MODEL.CNN.NORM == "BN"


def flatten(cfg, above=""):
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def test_what_the_mended_recipe_changes():
    before, after = (dict(flatten(read(name))) for name in ("voc_clims", "voc_clims_plus"))
    assert {key for key in after if after[key] != before[key]} == {
        "MODEL.CLIMS.CBS_REFERENCE_BATCH",
        "MODEL.CLIMS.CLIP_PIXEL_MEAN",
        "MODEL.CLIMS.CLIP_PIXEL_STD",
        "SOLVER.MOMENTUM",
        "SOLVER.BASE_LR",
        "OUTPUT_DIR",
    }


def test_rates_and_decay_of_a_resnet_50(stage0_cfg):
    """160 tensors: 159 of the trunk, three of them frozen, and the classifier."""
    cfg = read("voc_clims_stage0")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CNN.WEIGHTS", ""])
    model = build_model(cfg)
    sizes = [p.numel() for p in model.backbone.parameters()]
    assert (len(sizes), sum(sizes)) == (159, 23_508_032)
    assert model.classifier.linear.weight.numel() == 40_960
    optimizer = build_optimizer(cfg, model)
    rates = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert len(rates) == 157
    assert rates.pop(id(model.classifier.linear.weight)) == (pytest.approx(1.0), 1e-4)
    assert set(rates.values()) == {(0.1, 1e-4)}


def test_the_published_optimizer_step_by_step(stage0_cfg):
    """SGD with the weight decay in the place of the momentum, and rates that fall to 0."""
    length = 4
    stage0_cfg.merge_from_list(
        [
            *("SOLVER.BASE_LR", 0.1, "SOLVER.HEAD_LR_MULTIPLIER", 10.0, "SOLVER.MAX_ITER", length),
            *("SOLVER.WEIGHT_DECAY", 1e-4, "SOLVER.WEIGHT_DECAY_NORM", 1e-4),
            *("SOLVER.WEIGHT_DECAY_BIAS", 1e-4),
        ]
    )
    model = torch.nn.Module()
    model.withheld_parameters = lambda: ()
    model.backbone, model.head = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, False)
    first, second = model.backbone.weight, model.head.weight
    first.data, second.data = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5]])
    optimizer = build_optimizer(stage0_cfg, model)
    scheduler = Trainer.build_lr_scheduler(stage0_cfg, optimizer)
    values = {id(first): [1.0, -2.0], id(second): [0.5]}
    buffers = {}
    for step in range(length):
        first.grad = torch.tensor([[0.3, 0.1]]) * (step + 1)
        second.grad = torch.full((1, 1), -0.2)
        for group in optimizer.param_groups:
            (parameter,) = group["params"]
            start = 0.1 if parameter is first else 1.0
            rate = start * (1 - step / length) ** 0.9
            assert group["lr"] == pytest.approx(rate)
            found = values[id(parameter)]
            gradient = parameter.grad.flatten().tolist()
            gradient = [g + 1e-4 * v for g, v in zip(gradient, found, strict=True)]
            # The momentum of 1e-4 that is meant to be a weight decay.
            earlier = buffers.get(id(parameter), [0.0] * len(found))
            buffers[id(parameter)] = [1e-4 * b + g for b, g in zip(earlier, gradient, strict=True)]
            moved = zip(found, buffers[id(parameter)], strict=True)
            values[id(parameter)] = [v - rate * b for v, b in moved]
        optimizer.step()
        scheduler.step()
        for parameter in (first, second):
            assert parameter.flatten().tolist() == pytest.approx(values[id(parameter)], rel=1e-5)

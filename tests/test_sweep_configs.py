# SPDX-License-Identifier: Apache-2.0
"""The repository's sweeps: their runs differ in what they compare, and in nothing else."""

from pathlib import Path

import pytest

from dalnet.sweep import read_sweep

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "both_cross"),
    [("ablation_toy", "dalnet"), ("table4_voc", "both_cross")],
)
def test_table4_differs_in_three_switches_only(name, both_cross):
    trainings = read_sweep(CONFIGS / "sweeps" / f"{name}.yaml", [1], Path("out"), [])
    switches, others = {}, set()
    for run in ("gia", "gia_cross", "lea", "lea_cross", "both", both_cross):
        cfg = trainings[Path("out") / run / "seed1"]
        losses = cfg.MODEL.DALNET
        switches[run] = losses.GIA, losses.LEA, losses.CROSS_CONTRASTIVE
        losses.GIA = losses.LEA = losses.CROSS_CONTRASTIVE = True
        cfg.OUTPUT_DIR = ""
        others.add(cfg.dump())
    assert switches == {
        "gia": (True, False, False),
        "gia_cross": (True, False, True),
        "lea": (False, True, False),
        "lea_cross": (False, True, True),
        "both": (True, True, False),
        both_cross: (True, True, True),
    }
    assert len(others) == 1


@pytest.mark.parametrize("name", ["photos", "photos_mae"])
def test_photos_compares_methods_with_one_encoder_and_one_budget(name):
    trainings = read_sweep(CONFIGS / "sweeps" / f"{name}.yaml", [1], Path("out"), [])
    assert [folder.parent.name for folder in trainings][:3] == ["baseline", "toco", "dalnet"]
    shared = [(c.DATASETS, c.INPUT.CROP, c.SOLVER, c.TEST, c.MODEL.VIT) for c in trainings.values()]
    assert all(nodes == shared[0] for nodes in shared)


def test_deit_tiny_differs_in_the_method_alone():
    trainings = read_sweep(CONFIGS / "sweeps/deit_tiny.yaml", [1], Path("out"), [])
    cfgs = {folder.parent.name: cfg for folder, cfg in trainings.items()}
    # ToCo's own code resizes the position embedding otherwise.
    assert cfgs["toco"].MODEL.VIT.POS_EMBED == "bicubic"
    cfgs["toco"].MODEL.VIT.POS_EMBED = "bilinear"
    shared = [(c.DATASETS, c.INPUT.CROP, c.SOLVER, c.TEST, c.MODEL.VIT) for c in cfgs.values()]
    assert all(nodes == shared[0] for nodes in shared)
    weights = {name: cfg.MODEL.DALNET.SEG_WEIGHT for name, cfg in cfgs.items()}
    assert weights.pop("dalnet") == 1.0 and set(weights.values()) == {0.1}


def test_every_sweep_can_be_read_and_every_config_of_table4_is_in_one(tmp_path):
    texts = ""
    for path in (CONFIGS / "sweeps").glob("*.yaml"):
        assert read_sweep(path, [1], tmp_path, [])
        texts += path.read_text()
    table4 = sorted((CONFIGS / "table4").glob("*.yaml"))
    assert len(table4) == 10
    assert [path.name for path in table4 if f"../table4/{path.name}" not in texts] == []

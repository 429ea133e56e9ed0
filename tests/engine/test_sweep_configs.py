# SPDX-License-Identifier: Apache-2.0
"""The repository's sweeps: their runs differ in what they compare, and in nothing else."""

from pathlib import Path

import pytest

from dalnet.engine.sweep_plan import read_sweep

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "sweep, both_cross, base",
    [("ablation_toy", "dalnet", "toy_dalnet"), ("table4_voc", "both_cross", "voc_dalnet_deit")],
)
def test_table4_differs_in_three_switches_only(sweep, both_cross, base, tmp_path):
    path = CONFIGS / "sweeps" / f"{sweep}.yaml"
    cells = ("gia", "gia_cross", "lea", "lea_cross", "both", both_cross)
    jobs = {job.run: job for job in read_sweep(path, [1], tmp_path) if job.run in cells}
    method = ("GIA", "LEA", "CROSS_CONTRASTIVE")
    switches = {
        name: tuple(job.cfg.MODEL.DALNET[key] for key in method) for name, job in jobs.items()
    }
    assert switches == {
        "gia": (True, False, False),
        "gia_cross": (True, False, True),
        "lea": (False, True, False),
        "lea_cross": (False, True, True),
        "both": (True, True, False),
        both_cross: (True, True, True),
    }
    assert jobs[both_cross].config.resolve() == CONFIGS / f"{base}.yaml"
    for job in jobs.values():
        for key in method:
            job.cfg.MODEL.DALNET[key] = True
        job.cfg.OUTPUT_DIR = ""
    assert len({job.cfg.dump() for job in jobs.values()}) == 1


def test_every_sweep_can_be_read_and_uses_every_config_of_table4(tmp_path):
    used = {
        job.config.resolve()
        for path in (CONFIGS / "sweeps").glob("*.yaml")
        for job in read_sweep(path, [1], tmp_path)
    }
    table4 = set((CONFIGS / "table4").glob("*.yaml"))
    assert len(table4) == 10
    assert table4 <= used


@pytest.mark.parametrize("sweep", ["photos", "photos_mae"])
def test_photos_compares_methods_with_one_encoder_and_one_budget(tmp_path, sweep):
    jobs = read_sweep(CONFIGS / "sweeps" / f"{sweep}.yaml", [1], tmp_path)
    assert [job.run for job in jobs][:3] == ["baseline", "toco", "dalnet"]
    for job in jobs:
        for node, key in (
            (job.cfg.MODEL, "DALNET"),
            (job.cfg.MODEL, "CLIP"),
            (job.cfg.INPUT, "MULTI_CROP"),
        ):
            node.pop(key)
        job.cfg.OUTPUT_DIR = ""
    assert len({job.cfg.dump() for job in jobs}) == 1

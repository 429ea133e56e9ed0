# SPDX-License-Identifier: Apache-2.0
"""Sweep files: what is read from them, and one sentence for those that cannot be used."""

import json
from pathlib import Path

import pytest

from dalnet.engine.sweep_plan import parse_seeds, read_sweep
from dalnet.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("text", ["", "1,", "1,1", "-1", "one"])
def test_bad_seeds(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_seeds():
    assert parse_seeds("3, 1,0") == [3, 1, 0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("- a", "no mapping"),
        ("runs: {}", "has no runs"),
        ("runs: {a: TOY}\nrun: {}", "unknown key 'run'"),
        ("runs:\n  a: TOY\n  a: TOY", "'a' occurs twice in line 3"),
        ("runs: {a: gone.yaml}", "gone.yaml does not exist"),
        ("runs: {a: empty.yaml}", "run a: .*empty.yaml is no config"),
        ("runs: {a: {opts: {SEED: 1}}}", "names no config file"),
        ("runs: {a: {config: TOY, seed: 1}}", "unknown key 'seed'"),
        ("runs: {a: 3}", "run a of"),
        ("runs: {a b: TOY}", "'a b' cannot name a run"),
        ("runs: {1: TOY}", "1 cannot name a run"),
        ("runs: {../a: TOY}", "cannot name a run"),
        ("runs: {a: TOY}\nopts: {SEED: 1}", "use --seeds"),
        ("runs: {a: {config: TOY, opts: {OUTPUT_DIR: x}}}", "use --output"),
        ("runs: {a: TOY}\nopts: [SOLVER.MAX_ITER, 3]", "KEY: VALUE"),
        ("runs: {a: TOY}\nopts: {SOLVER: {MAX_ITER: 3}}", "SOLVER holds further keys"),
        ("runs: {a: TOY}\nopts: {SOLVER.NOTHING: 3}", "run a: .*SOLVER.NOTHING"),
        ("runs: {a: TOY}\nopts: {DATASETS.TEST: ()}", "DATASETS.TEST .* is empty"),
        ("runs: {a: [TOY}", "cannot be used: .* in line 1"),
    ],
)
def test_bad_sweep_file_is_one_sentence(tmp_path, text, part):
    path = tmp_path / "sweep.yaml"
    (tmp_path / "empty.yaml").touch()
    path.write_text(text.replace("TOY", str(CONFIGS / "toy_dalnet.yaml")))
    with pytest.raises(UsageError, match=part) as error:
        read_sweep(path, [1], tmp_path / "output")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "output").exists()


def test_runs_are_chosen_by_name(tmp_path):
    path = CONFIGS / "sweeps" / "ablation_toy.yaml"
    jobs = read_sweep(path, [1, 2], tmp_path, chosen=["lea", "gia"])
    assert [(job.run, job.seed) for job in jobs] == [("gia", 1), ("lea", 1), ("gia", 2), ("lea", 2)]
    with pytest.raises(UsageError, match=r"--runs lae: .*ablation_toy.yaml has no such.* gia, "):
        read_sweep(path, [1], tmp_path, chosen=["gia", "lae"])


def test_missing_sweep_file(tmp_path):
    with pytest.raises(UsageError, match=r"gone.yaml cannot be read"):
        read_sweep(tmp_path / "gone.yaml", [1], tmp_path)


def test_keys_of_the_command_line_win_over_the_run_and_the_run_over_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    keys = ["SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.IMS_PER_BATCH"]
    run = {"config": str(CONFIGS / "toy_dalnet.yaml"), "opts": dict.fromkeys(keys[:2], 2)}
    path.write_text(json.dumps({"opts": dict.fromkeys(keys, 1), "runs": {"a": run}}))
    job, other = read_sweep(path, [7, 8], tmp_path, [keys[0], "3"])
    solver = job.cfg.SOLVER
    assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.IMS_PER_BATCH) == (3, 2, 1)
    assert (job.cfg.SEED, other.cfg.SEED) == (7, 8)
    assert Path(job.cfg.OUTPUT_DIR) == tmp_path / "a" / "seed7"

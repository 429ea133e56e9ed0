# SPDX-License-Identifier: Apache-2.0
"""Sweeps and their command, with a small script in the place of a training."""

import argparse
import fcntl
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import refused

from dalnet import sweep
from dalnet.cli import sweep as command
from dalnet.data.datasets.catalog import register
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.errors import UsageError

TOY = Path(__file__).parents[1] / "configs" / "toy_dalnet.yaml"

# "broken" fails, "early" is measured before its last iteration only, "crf" by another protocol,
# "steep" differs from the others by its seed minus 2, and "slow" hangs at its first start.
TRAINING = """
import json, os, signal, sys, time
from pathlib import Path

resume, flag, config = sys.argv[1:]
assert (resume, flag) == ("--resume", "--config-file")
folder = Path(config).parent
run, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
with open(folder / "starts", "a") as stream:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    stream.write(json.dumps([os.environ.get(name) for name in names]) + "\\n")
if run == "slow" and not (folder / "last_checkpoint").exists():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        (folder / "last_checkpoint").touch()
        time.sleep(30)
    finally:
        (folder / "unwound").touch()
if run == "broken":
    sys.exit("error: nothing to learn from")
miou = seed**2 + (seed - 2) * (run == "steep")
common = {"protocol": "ms+flip" + "+crf" * (run == "crf"), "scales": [1.0], "threshold": 0.5}
measurements = [
    {"source": source, "miou": 10 * i + miou, "labeled": 90 + seed, **common}
    for i, source in enumerate(["sem_seg", "cam", "cam_inter", "pseudo_label"])
]
results = {"split": "val", "num_images": 3, "iteration": 3 if run == "early" else 4}
(folder / "evaluation" / "val").mkdir(parents=True, exist_ok=True)
path = folder / "evaluation" / "val" / "results.json"
path.write_text(json.dumps({**results, "measurements": measurements}))
"""


class Sweep:
    def __init__(self, root: Path) -> None:
        self.file, self.output, self.script = root / "s.yaml", root / "out", root / "training.py"
        self.script.write_text(TRAINING)

    def run(self, runs: str, *args: str) -> dict:
        """Run comma-separated runs with further arguments, and return the content of table.json."""
        opts = {"SOLVER.MAX_ITER": 4, "DATASETS.TEST": "('val',)"}
        names = runs.split(",")
        self.file.write_text(json.dumps({"opts": opts, "runs": dict.fromkeys(names, str(TOY))}))
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        # -S: a bare Python starts at once.
        start = [sys.executable, "-S", str(self.script)]
        argv = ["--config", str(self.file), "--output", str(self.output), *args]
        command.run(parser.parse_args(argv), start)
        return json.loads((self.output / "table.json").read_text())

    def starts(self, run: str, seed: int = 1) -> list:
        """Threads and GPUs of every start of a training."""
        path = self.output / run / f"seed{seed}" / "starts"
        return [json.loads(line) for line in path.open()] if path.exists() else []


@pytest.fixture
def toy(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    yield Sweep(tmp_path)
    signal.signal(signal.SIGTERM, handler)


def find(table, run, source="cam"):
    return next(r for r in table["rows"] if (r["run"], r["source"]) == (run, source))


def test_mean_and_sample_deviation_over_seeds_of_every_source(toy):
    table = toy.run("a,b", "--seeds", "1,2,3", "--jobs", "3")
    assert table["unfinished"] == []
    assert len(table["rows"]) == 8
    row = find(table, "b", "pseudo_label")
    assert row["miou"] == {"1": 31, "2": 34, "3": 39}
    assert row["miou_mean"] == pytest.approx(104 / 3)
    assert row["miou_std"] == pytest.approx(((11**2 + 2**2 + 13**2) / 9 / 2) ** 0.5)
    assert row["labeled_mean"] == 92
    assert (row["split"], row["num_images"], row["scales"]) == ("val", 3, [1.0])
    line = next(x for x in (toy.output / "table.md").read_text().splitlines() if "34.7 ± 4.0" in x)
    assert all(value in line for value in ("pseudo_label", "31.0", "34.0", "39.0"))


def test_one_seed_has_no_spread_and_protocols_are_not_mixed(toy):
    table = toy.run("a,crf", "--seeds", "2", "--reference", "a")
    assert [find(table, run)["protocol"] for run in ("a", "crf")] == ["ms+flip", "ms+flip+crf"]
    assert [find(table, run)["miou_std"] for run in ("a", "crf")] == [None, None]
    assert find(table, "crf")["difference"] == {}


def test_differences_are_of_the_same_seed(toy):
    toy.run("steep,base", "--seeds", "1,2,3")
    (toy.output / "base/seed2/evaluation/val/results.json").unlink()
    row = find(toy.run("steep,base", "--table-only", "--reference", "base"), "steep")
    assert row["difference"] == {"1": -1, "3": 1}
    assert (row["difference_mean"], row["difference_std"]) == (0, pytest.approx(2**0.5))
    assert "minus base" in (toy.output / "table.md").read_text()
    assert len(toy.starts("base", 2)) == 1


def test_finished_trainings_are_taken_over_and_the_chosen_others_run(toy):
    toy.run("a,b,c", "--seeds", "1", "--runs", "a,b")
    (toy.output / "b/seed1/evaluation/val/results.json").unlink()
    table = toy.run("a,b,c", "--seeds", "1,2", "--runs", "b,a")
    assert [len(toy.starts(r, s)) for r in "abc" for s in (1, 2)] == [1, 1, 2, 1, 0, 0]
    assert list(find(table, "a")["miou"]) == ["1", "2"]


def test_a_split_without_masks_is_refused_before_a_training(toy):
    register("unmasked", lambda: [{"file_name": "a.png", "image_labels": [0]}], TOY_CLASSES)
    with refused("DATASETS.TEST", "unmasked has no masks"):
        toy.run("a,b", "DATASETS.TEST", "('unmasked',)")
    assert toy.starts("a") == []


def test_runs_may_be_recipes(tmp_path):
    (tmp_path / "s.yaml").write_text("runs: {a: toy_dalnet}")
    (cfg,) = sweep.read_sweep(tmp_path / "s.yaml", [1], tmp_path / "out", []).values()
    assert cfg.DATASETS.TRAIN == ("toy_train",)


def test_failures_are_named_and_do_not_stop_the_others(toy, capsys):
    with refused(toy.output, "2 trainings"):
        toy.run("broken,early,a", "--seeds", "1")
    assert "nothing to learn from" in capsys.readouterr().out
    table = toy.run("broken,early,a", "--seeds", "1", "--table-only")
    assert [Path(folder).parent.name for folder in table["unfinished"]] == ["broken", "early"]
    assert find(table, "a")


def test_interrupt_ends_trainings_and_the_same_command_goes_on(toy, monkeypatch):
    class InterruptedPool(ThreadPoolExecutor):
        def map(self, *args):
            super().map(*args)
            while not (toy.output / "slow/seed1/last_checkpoint").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "ThreadPoolExecutor", InterruptedPool)
        toy.run("a,slow,b", "--seeds", "1")
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler  # as Ctrl-C
    assert (toy.output / "slow/seed1/unwound").exists()
    assert not toy.starts("b") and "b/seed1" in (toy.output / "table.md").read_text()
    assert toy.run("a,slow,b", "--seeds", "1")["unfinished"] == []
    assert [len(toy.starts(run)) for run in ("a", "slow", "b")] == [1, 2, 1]


def test_two_sweeps_never_share_a_folder(toy):
    toy.output.mkdir()
    with (toy.output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with refused(toy.output):
            toy.run("a", "--seeds", "1")
    assert not toy.starts("a")
    toy.run("a", "--seeds", "1")


def test_each_training_has_one_thread_and_the_gpus_are_shared(toy, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    toy.run("a", "--seeds", "1,2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    toy.run("b,c", "--seeds", "1", "--jobs", "2")
    assert toy.starts("a", 1) + toy.starts("a", 2) == [["1", "3"]] * 2
    assert sorted(toy.starts("b") + toy.starts("c")) == [["2", "3"], ["2", "5"]]


def test_other_config_is_refused_but_where_nothing_was_learned(toy):
    toy.run("a", "--seeds", "1")
    with refused(toy.output / "a/seed1", "SOLVER.BASE_LR 0.0003"):
        toy.run("a", "--seeds", "1", "--table-only", "SOLVER.BASE_LR", "0.5")
    (toy.output / "a/seed1/job.yaml").unlink()
    with pytest.raises(UsageError, match="job.yaml"):
        toy.run("a", "--seeds", "1")
    for rate in ("0.5", "0.25"):
        with refused(toy.output, "1 trainings"):
            toy.run("broken", "--seeds", "1", "SOLVER.BASE_LR", rate)
    assert (len(toy.starts("a")), len(toy.starts("broken"))) == (1, 2)


def test_keys_of_the_command_line_win_over_the_run_and_the_run_over_the_file(tmp_path):
    common = {"SOLVER": {"MAX_ITER": 1, "IMS_PER_BATCH": 1}, "SOLVER.WARMUP_ITERS": 1}
    run = {"config": str(TOY), "opts": {"SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 2}}
    path = tmp_path / "s.yaml"
    path.write_text(json.dumps({"opts": common, "runs": {"a": run, "b": run}}))
    trainings = sweep.read_sweep(path, [7, 8], Path("out"), ["SOLVER.MAX_ITER", "3"])
    assert list(map(str, trainings)) == [f"out/{run}/seed{seed}" for seed in (7, 8) for run in "ab"]
    for folder, cfg in trainings.items():
        assert (cfg.OUTPUT_DIR, f"seed{cfg.SEED}") == (str(folder), folder.name)
        solver = cfg.SOLVER
        assert (solver.MAX_ITER, solver.WARMUP_ITERS, solver.IMS_PER_BATCH) == (3, 2, 1)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "runs"),
        ("- a", "s.yaml"),
        ("runs: {a: TOY}\nrun: {}", "'run'"),
        ("runs:\n  a: TOY\n  a: TOY", "'a' is there twice"),
        ("runs: {a: gone.yaml}", "gone.yaml"),
        ("runs: {a: {opts: {SEED: 1}}}", "config"),
        ("runs: {a: {config: TOY, seed: 1}}", "seed"),
        ("runs: {a: {config: 3}}", "3"),
        ("runs: {a: 3}", "s.yaml"),
        ("runs: {../a: TOY}", "../a"),
        ("runs: {a: TOY}\nopts: {SEED: 1}", "SEED"),
        ("runs: {a: TOY}\nopts: [SOLVER.MAX_ITER, 3]", "s.yaml"),
        ("runs: {a: TOY}\nopts: {SOLVER: {NOTHING: 3}}", "SOLVER.NOTHING"),
        ("runs: {a: [TOY}", "line 1"),
    ],
)
def test_bad_sweep_file_is_one_sentence(tmp_path, text, part):
    (tmp_path / "s.yaml").write_text(text.replace("TOY", str(TOY)))
    with pytest.raises(UsageError) as error:
        sweep.read_sweep(tmp_path / "s.yaml", [1], tmp_path / "out", [])
    assert part in str(error.value) and "\n" not in str(error.value)


BAD = [
    "--seeds 1,",
    "--seeds one",
    "--seeds -1",
    "--jobs 0",
    "--runs a,c",
    "--reference c",
    "--runs a --reference b",
]


@pytest.mark.parametrize("args", [*BAD, "DATASETS.TEST ()"])
def test_bad_arguments_train_nothing(toy, args):
    with pytest.raises(UsageError):
        toy.run("a,b", *args.split())
    assert not toy.output.exists()

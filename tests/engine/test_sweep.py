# SPDX-License-Identifier: Apache-2.0
"""Sweeps, with a small script in the place of train_net.py."""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from dalnet.data.datasets.catalog import register
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.engine.sweep import Settings, report_table, run_sweep
from dalnet.engine.sweep_plan import read_sweep
from dalnet.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"
SPLIT = "sweep_val"

# "slow" saves a checkpoint and hangs at its first start; "broken" fails; "early" measures only
# before its last iteration; "steep" differs from the others by its seed minus 2.
TRAINING = """
import json, os, sys, time
from pathlib import Path

resume, flag, config = sys.argv[1:]
assert (resume, flag) == ("--resume", "--config-file")
folder = Path(config).parent
run, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
assert f"SEED: {seed}\\n" in Path(config).read_text()
with open(folder / "starts", "a") as stream:
    stream.write(f"{os.getpid()}\\n")
names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
(folder / "environment").write_text(json.dumps({name: os.environ.get(name) for name in names}))
metrics = open(folder / "metrics.json", "a")
if run == "slow" and not (folder / "checkpoint").exists():
    metrics.write('{"iteration": 1, "time": 0.5}\\n{"iteration": 3, "cut')
    metrics.flush()
    (folder / "checkpoint").touch()
    time.sleep(60)
if run == "broken":
    print("error: nothing to learn from")
    sys.exit(1)
values = {"iteration": 4}
for i, source in enumerate(("cam", "cam_inter", "pseudo_label", "sem_seg")):
    miou = float("nan") if run == "unmeasurable" else 10 * i + seed**2
    miou += (seed - 2) * (run == "steep")
    values |= {f"{source}/mIoU": miou, f"{source}/labelled": 90 + seed}
metrics.write("\\n" + json.dumps({"iteration": 2, **dict.fromkeys(values, 1)}))
if run != "early":
    metrics.write("\\n" + json.dumps(values) + "\\n")
"""


@pytest.fixture(autouse=True)
def split():
    """A registered data set of three images; nothing opens them."""
    dicts = [
        {"file_name": f"{i}.jpg", "sem_seg_file_name": f"{i}.png", "image_labels": [i]}
        for i in range(3)
    ]
    register(SPLIT, lambda: dicts, TOY_CLASSES)
    yield
    DatasetCatalog.pop(SPLIT)
    MetadataCatalog.pop(SPLIT)


@pytest.fixture
def sweep(tmp_path):
    """A function that runs the named runs with the given seeds."""
    (tmp_path / "training.py").write_text(TRAINING)
    # -S: a bare Python starts at once.
    command, output = [sys.executable, "-S", str(tmp_path / "training.py")], tmp_path / "output"

    def jobs_of(names, seeds, *opts):
        path = tmp_path / "sweep.yaml"
        fixed = {"SOLVER.MAX_ITER": 4, "DATASETS.TEST": f"('{SPLIT}',)"}
        runs = dict.fromkeys(names, str(CONFIGS / "toy_dalnet.yaml"))
        path.write_text(json.dumps({"opts": fixed, "runs": runs}))
        return read_sweep(path, seeds, output, opts)

    def execute(names, seeds, *opts, **settings):
        settings = Settings(command, output, **{"poll": 0.01, "grace": 5, **settings})
        run_sweep(jobs_of(names, seeds, *opts), settings)

    execute.jobs_of, execute.output = jobs_of, output
    return execute


def starts(sweep, run, seed):
    path = sweep.output / run / f"seed{seed}" / "starts"
    return path.read_text().splitlines() if path.exists() else []


def is_alive(pid):
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def send_signal_after(number, path):
    """Send this process a signal from a thread, once a file is there and had time to matter."""

    def wait_and_send():
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def test_table_has_mean_and_sample_deviation_over_seeds(sweep, capsys):
    sweep(["a", "b"], [1, 2, 3], parallel=3)
    table = json.loads((sweep.output / "table.json").read_text())
    assert table["seeds"] == [1, 2, 3] and table["unfinished"] == []
    (group,) = table["splits"]
    assert (group["split"], group["num_images"]) == (SPLIT, 3)
    assert [run["run"] for run in group["runs"]] == ["a", "b"]
    cell = group["runs"][0]["sources"]["pseudo_label"]
    assert cell["miou"] == [21, 24, 29]
    assert cell["mean"] == pytest.approx(74 / 3)
    assert cell["std"] == pytest.approx(np.sqrt((11**2 + 2**2 + 13**2) / 9 / 2))
    assert cell["labelled"] == 92

    text = (sweep.output / "table.md").read_text()
    assert f"**{SPLIT}, 3 images**" in text
    assert "- CAM: scales 1.0 + mirror, image labels given, threshold 0.5" in text
    row = next(line for line in text.splitlines() if line.startswith("| a "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    spread = "± 4.0"
    assert cells == [
        *("a", "4", "3", f"4.7 {spread}", f"14.7 {spread}", f"24.7 {spread}", "92.0"),
        f"34.7 {spread}",
    ]
    assert text in capsys.readouterr().out


def test_one_seed_has_no_spread_and_nan_no_figure(sweep):
    sweep(["a", "unmeasurable"], [2])
    text = (sweep.output / "table.md").read_text()
    rows = [line.replace(" ", "") for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["|a|4|1|4.0|14.0|24.0|92.0|34.0|", "|unmeasurable|4|1|-|-|-|92.0|-|"]


def test_differences_are_of_the_same_seed(sweep):
    sweep(["steep", "base"], [1, 2, 3])
    # No result of this seed: it is left out on both sides.
    (sweep.output / "steep/seed2/result.json").unlink()
    names = ["steep", "base", "unmeasurable", "broken"]
    with pytest.raises(UsageError, match="trainings failed"):
        sweep(names[1:], [1], reference="base")
    report_table(sweep.jobs_of(names, [3, 2, 1]), sweep.output, "base")

    table = json.loads((sweep.output / "table.json").read_text())
    assert table["reference"] == "base"
    runs = {run["run"]: run for run in table["splits"][0]["runs"]}
    assert "differences" not in runs["base"]
    found = runs["steep"]["differences"]
    assert found["seeds"] == [3, 1]
    for key in ("cam", "cam_inter", "pseudo_label", "sem_seg"):
        assert found["sources"][key] == {"miou": [1, -1], "mean": 0, "std": pytest.approx(2**0.5)}
    assert runs["unmeasurable"]["differences"]["sources"]["cam"]["mean"] is None

    text = (sweep.output / "table.md").read_text()
    rows = text[text.index("Minus base of the same seed") :].replace(" ", "").splitlines()
    assert [row for row in rows if row.startswith("|")][2:] == [
        "|steep" + 4 * "|0.0±1.4(1/2)" + "|",
        "|unmeasurable" + 4 * "|-" + "|",
    ]


def test_reference_has_to_be_a_run(sweep):
    for use in (sweep, lambda *args, **kw: report_table(sweep.jobs_of(*args), sweep.output, "c")):
        with pytest.raises(UsageError, match="--reference c: the sweep has no such run; a, b"):
            use(["a", "b"], [1], reference="c")
    assert not starts(sweep, "a", 1)


def test_protocols_that_differ_name_their_runs(sweep, tmp_path):
    path = tmp_path / "two.yaml"
    config = str(CONFIGS / "toy_dalnet.yaml")
    other = {"config": config, "opts": {"MODEL.DALNET.CAM.SCALES": [1.0, 0.5]}}
    path.write_text(json.dumps({"runs": {"a": config, "b": other}}))
    opts = ["SOLVER.MAX_ITER", "4", "DATASETS.TEST", f"('{SPLIT}',)"]
    jobs = read_sweep(path, [1], sweep.output, opts)
    command = [sys.executable, "-S", str(tmp_path / "training.py")]
    run_sweep(jobs, Settings(command, sweep.output, poll=0.01))
    text = (sweep.output / "table.md").read_text()
    assert "- CAM (a): scales 1.0 + mirror" in text
    assert "- CAM (b): scales 1.0, 0.5 + mirror" in text
    assert "- segmentation head: single scale\n" in text


def test_finished_trainings_are_not_run_again(sweep):
    sweep(["a", "b"], [1])
    (sweep.output / "b" / "seed1" / "result.json").unlink()
    sweep(["a", "b"], [1, 2])
    counts = {f"{r}{s}": len(starts(sweep, r, s)) for r in "ab" for s in (1, 2)}
    assert counts == {"a1": 1, "b1": 2, "a2": 1, "b2": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_children_and_the_same_command_goes_on(sweep, capsys, number, request):
    found = signal.signal(number, signal.default_int_handler)  # ignored by background jobs
    request.addfinalizer(lambda: signal.signal(number, found))
    # The checkpoint comes after the training has said how far it is.
    thread = send_signal_after(number, sweep.output / "slow/seed1/checkpoint")
    with pytest.raises(UsageError, match="interrupted; 1 of 3 trainings are finished"):
        sweep(["a", "slow", "b"], [1], report=0)
    thread.join()
    assert signal.getsignal(number) is signal.default_int_handler
    (pid,) = starts(sweep, "slow", 1)
    assert not is_alive(pid)
    assert not starts(sweep, "b", 1)
    assert "slow, seed 1: iteration 2 of 4" in capsys.readouterr().out
    assert "Not finished: slow, seed 1; b, seed 1." in (sweep.output / "table.md").read_text()

    sweep(["a", "slow", "b"], [1])
    assert [len(starts(sweep, run, 1)) for run in ("a", "slow", "b")] == [1, 2, 1]


def test_ignored_signals_stay_ignored(sweep):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    thread = send_signal_after(signal.SIGHUP, sweep.output / "a/seed1/starts")
    try:
        sweep(["a"], [1, 2, 3])
        thread.join()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_failures_are_named_and_do_not_stop_the_others(sweep, capsys):
    with pytest.raises(UsageError, match="2 of 4 trainings failed"):
        sweep(["broken", "early", "a", "b"], [1])
    lines, log = capsys.readouterr().out.splitlines(), sweep.output / "broken/seed1/console.txt"
    failed = [line for line in lines if "failed: " in line and "log: " in line]
    assert len(failed) == 2
    assert failed[0].endswith(
        f"failed: broken, seed 1: it ended with status 1: error: nothing to learn from; log: {log}"
    )
    assert "early, seed 1: it left no complete evaluation" in failed[1]
    table = json.loads((sweep.output / "table.json").read_text())
    assert table["unfinished"] == ["broken, seed 1", "early, seed 1"]
    assert [run["run"] for run in table["splits"][0]["runs"]] == ["a", "b"]


def test_trainings_share_cores_and_gpus(sweep, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    sweep(["a", "b"], [1], parallel=2)
    found = [json.loads((sweep.output / r / "seed1/environment").read_text()) for r in "ab"]
    assert found == [{"OMP_NUM_THREADS": "6", "CUDA_VISIBLE_DEVICES": gpu} for gpu in "35"]


def test_several_splits_are_told_apart(sweep, tmp_path):
    record = {"file_name": "x", "sem_seg_file_name": "y", "image_labels": [0]}
    register("sweep_other", lambda: [record], TOY_CLASSES)
    script = tmp_path / "training.py"
    script.write_text(
        TRAINING.replace('f"{source}/', f'f"{SPLIT}/{{source}}/')
        + "metrics.write(json.dumps(values).replace('sweep_val', 'sweep_other') + '\\n')\n"
    )
    sweep(["a"], [3], "DATASETS.TEST", f"('{SPLIT}', 'sweep_other')")
    table = json.loads((sweep.output / "table.json").read_text())
    assert [(g["split"], g["num_images"]) for g in table["splits"]] == [
        (SPLIT, 3),
        ("sweep_other", 1),
    ]


def test_table_only_trains_nothing(sweep, capsys):
    sweep(["a"], [1])
    jobs = sweep.jobs_of(["a"], [1, 2])
    capsys.readouterr()
    report_table(jobs, sweep.output)
    assert "Not finished: a, seed 2." in capsys.readouterr().out
    assert not starts(sweep, "a", 2)


def test_folder_of_another_training_is_refused(sweep):
    sweep(["a"], [1])
    (sweep.output / "a/seed1/last_checkpoint").touch()
    for use in (sweep, lambda *args: report_table(sweep.jobs_of(*args), sweep.output)):
        with pytest.raises(UsageError, match="SOLVER.BASE_LR 0.0003, not 0.5"):
            use(["a"], [1], "SOLVER.BASE_LR", "0.5")
    (sweep.output / "a/seed1/job.yaml").write_text("nothing")
    with pytest.raises(UsageError, match="job.yaml is no config"):
        sweep(["a"], [1])
    (sweep.output / "b" / "seed1").mkdir(parents=True)
    (sweep.output / "b" / "seed1" / "last_checkpoint").touch()
    with pytest.raises(UsageError, match="that no sweep has begun"):
        sweep(["b"], [1])


def test_training_reads_the_config_that_the_sweep_has_read(sweep, tmp_path):
    sweep(["a"], [1], "SOLVER.BASE_LR", "0.5")
    jobs = sweep.jobs_of(["a"], [1], "SOLVER.BASE_LR", "0.5")
    path = tmp_path / "again.yaml"
    path.write_text(json.dumps({"runs": {"a": str(sweep.output / "a/seed1/job.yaml")}}))
    (again,) = read_sweep(path, [1], sweep.output)
    assert yaml.safe_load(again.cfg.dump()) == yaml.safe_load(jobs[0].cfg.dump())


def test_what_failed_at_once_may_be_tried_with_other_keys(sweep):
    for rate in ("0.5", "0.25"):
        with pytest.raises(UsageError, match="1 of 1 trainings failed"):
            sweep(["broken"], [1], "SOLVER.BASE_LR", rate)
    assert len(starts(sweep, "broken", 1)) == 2


def test_two_sweeps_never_share_a_folder(sweep):
    sweep.output.mkdir()
    with (sweep.output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="still works in"):
            sweep(["a"], [1])
    sweep(["a"], [1])


def test_unreadable_result_is_named(sweep):
    sweep(["a"], [1])
    (sweep.output / "a/seed1/result.json").write_text("{")
    with pytest.raises(UsageError, match="result.json is no JSON"):
        sweep(["a"], [1])


def test_no_room_for_a_training(sweep):
    with pytest.raises(UsageError, match="--jobs is 0"):
        sweep(["a"], [1], parallel=0)

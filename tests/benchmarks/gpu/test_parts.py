# SPDX-License-Identifier: Apache-2.0
"""The other parts in tiny sizes, on the CPU."""

import os
import time

import pytest

from benchmarks.cases import CASES
from benchmarks.gpu import inference, kernels, loading, training
from benchmarks.gpu.part import NotRun, Setting
from benchmarks.gpu.tests import run_tests


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    return Setting("cpu", True, tmp_path / "pack", time.time() + 600)


def test_tests_tell_what_passed_failed_and_was_skipped(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_good(): pass\n"
        "@pytest.mark.gpu\ndef test_bad(): assert False\n"
        "@pytest.mark.gpu\n@pytest.mark.skip\ndef test_skipped(): pass\n"
        "def test_unmarked(): assert False\n"
    )
    (tmp_path / "test_two.py").write_text("import nowhere_to_be_found\n")
    row = run_tests(tmp_path)
    assert (row["passed"], row["skipped"]) == (1, 1)
    assert "2 tests" in row["failed"]
    assert "test_bad" in row["failed"] and "test_two" in row["failed"]
    assert "test_unmarked" not in row["failed"]


def test_kernels_are_those_that_make_sense_on_a_gpu(setting, monkeypatch):
    def compare(case, device, tiny):
        raise ImportError("pydensecrf")

    monkeypatch.setattr(kernels, "compare", compare)
    found = list(kernels.measurements(setting))
    assert [m.name for m in found] == [c.name for c in CASES if "cuda" in c.devices]
    with pytest.raises(NotRun, match="pydensecrf"):
        found[0].run()


@pytest.mark.parametrize("alone", [False, True])
def test_waiting_for_data_is_the_fraction_of_time_before_the_step(setting, monkeypatch, alone):
    clock = [0.0]

    def load():
        while True:
            clock[0] += 3.0
            yield ["item"]

    def step(items):
        assert items == ["item"]
        clock[0] += 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(loading, "build_train_loader", lambda cfg: load())
    row = loading.measure(setting, 2, 1, None if alone else step, limit=30)
    if alone:
        assert row["waits_for_data"] is None and row["seconds"] == 3
    else:
        # Three of the batches were there before: 8 of 4 s each pass the limit, the last 5 count.
        assert (row["steps"], row["seconds"], row["waits_for_data"]) == (5, 4, 0.75)
        assert row["images_per_second"] == 0.5


def test_loading_runs_with_the_real_loader(setting):
    found = loading.measurements(setting)
    assert 0 <= next(found).run()["waits_for_data"] < 1
    found.close()


def test_inference_runs_in_every_way(setting, monkeypatch):
    monkeypatch.setattr(inference, "seconds", lambda call, least: 0.5 if call() is None else None)
    rows = [measurement.run() for measurement in inference.measurements(setting)]
    assert len(rows) == 6 and all(row["images_per_second"] == 4 for row in rows)


def test_without_training_there_is_nothing_to_evaluate(setting):
    _, evaluate = training.measurements(setting)
    with pytest.raises(NotRun):
        evaluate.run()


def test_training_runs_on_a_pack_and_is_evaluated(setting, tmp_path):
    run = training.Run(setting, tmp_path)
    row = run.train()
    assert row["iterations"] == row["planned_iterations"] == training._PROBE_TINY
    assert os.environ["DETECTRON2_DATASETS"] == str(tmp_path / "pack")
    results = run.evaluate()
    assert set(results) >= {"miou_sem_seg", "miou_cam", "miou_pseudo_label"}
    assert all(0 <= value <= 100 for value in results.values())


def test_training_stops_when_the_time_is_up(setting, tmp_path):
    run = training.Run(setting, tmp_path)
    pack = run._find_pack()
    run.until = 0
    assert len(run._run(pack, 100).storage.history("total_loss").values()) == 1


def test_training_without_a_pack_is_not_run(tmp_path):
    run = training.Run(Setting("cpu", False, tmp_path / "pack", time.time() + 600), tmp_path)
    with pytest.raises(NotRun, match="pack"):
        run.train()

# SPDX-License-Identifier: Apache-2.0
"""One part: every measurement becomes a row, whatever happens to it."""

import contextlib
import json
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks.gpu.part import Measurement, NotRun, Setting, run_part
from benchmarks.gpu.report import Report


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(measurements, seconds)`` -> the rows of a part whose module yields them."""

    def rows(measurements, seconds=60.0):
        module = SimpleNamespace(measurements=measurements)
        monkeypatch.setitem(sys.modules, "a_part", module)
        report = Report(tmp_path / "rows.json")
        report.start()
        setting = Setting("cpu", True, tmp_path, time.time() + seconds)
        run_part("a part", "a_part", setting, report)
        return report.rows()

    return rows


def fail():
    raise ValueError("first line\nsecond line")


def test_what_raises_is_recorded_and_the_next_goes_on(run):
    seen = []

    def measurements(setting):
        yield Measurement("bad", fail)
        yield Measurement("good", lambda: {"seconds": 2.5, "error": 1e-6})
        seen.append(setting.device)

    bad, good = run(measurements)
    assert bad["failed"].startswith("ValueError: first line (test_part.py:")
    assert (good["name"], good["seconds"], good["error"]) == ("good", 2.5, 1e-6)
    assert "failed" not in good and good["took_seconds"] < 2.5
    assert seen == ["cpu"]


def test_the_file_is_complete_after_each_measurement(run, tmp_path):
    counts = []

    def count():
        counts.append(len(json.loads((tmp_path / "rows.json").read_text())["rows"]))
        return {}

    run(lambda setting: (Measurement(str(i), count) for i in range(3)))
    assert counts == [0, 1, 2]


def test_what_has_not_begun_when_the_time_is_up_is_not_run(run):
    def measurements(setting):
        yield Measurement("slow", lambda: time.sleep(30))
        yield Measurement("late", lambda: pytest.fail("run"))

    start = time.time()
    slow, late = run(measurements, seconds=0.3)
    assert time.time() - start < 10
    assert "not_run" in slow and "not_run" in late
    assert "failed" not in slow and "failed" not in late


def test_a_measurement_has_a_limit_of_its_own_even_if_its_exception_is_wrapped(run):
    def wrap():
        try:
            time.sleep(30)
        except TimeoutError as error:
            raise RuntimeError("compiler") from error

    def measurements(setting):
        yield Measurement("limited", wrap, limit=0.2)
        yield Measurement("free", lambda: {"value": 1})

    limited, free = run(measurements)
    assert "not_run" in limited and free["value"] == 1


def test_a_measurement_that_swallows_its_exception_is_stopped_all_the_same(run):
    def swallow():
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                time.sleep(30)
        return {}

    start = time.time()
    run(lambda setting: [Measurement("deaf", swallow, limit=0.2)])
    assert time.time() - start < 20


def test_what_is_missing_is_no_failure(run):
    def missing():
        raise NotRun("no such folder")

    (row,) = run(lambda setting: [Measurement("one", missing)])
    assert row["not_run"] == "no such folder" and "failed" not in row


def test_an_error_between_two_measurements_is_recorded(run):
    def measurements(setting):
        yield Measurement("good", lambda: {})
        fail()

    good, rest = run(measurements)
    assert "failed" not in good and "ValueError" in rest["failed"]

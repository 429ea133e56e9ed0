# SPDX-License-Identifier: Apache-2.0
"""The command: parts in processes of their own, within the time."""

import argparse
import json
import os
import time

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.report import Report

MODULE = """
import os, time
from benchmarks.gpu.part import Measurement

def hang():
    while True:  # whatever interrupts it
        try:
            time.sleep(30)
        except TimeoutError:
            pass

def measurements(setting):
    yield Measurement("good", lambda: {"value": os.environ.get("DETECTRON2_DATASETS", "")})
    yield Measurement("bad", {"crash": lambda: os._exit(3), "hang": hang}[setting.pack.name])
    yield Measurement("next", lambda: {})
"""


@pytest.fixture
def args(tmp_path, monkeypatch):
    (tmp_path / "fake_part.py").write_text(MODULE)
    paths = [str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    output = tmp_path / "rows.json"
    Report(output).start()
    return argparse.Namespace(output=output, size="tiny", pack=tmp_path)


def test_a_crash_ends_one_part_alone(args, tmp_path):
    args.pack = tmp_path / "crash"
    (args.pack / "VOC2012").mkdir(parents=True)
    command.run_in_process("a part", "fake_part", args, limit=60)
    good, rest = Report(args.output).rows()
    assert good["value"] == str(args.pack), "the pack is the data set"
    assert "3" in rest["failed"]


def test_a_hang_is_killed(args, tmp_path):
    args.pack = tmp_path / "hang"
    command.run_in_process("a part", "fake_part", args, limit=6, grace=1)
    assert "killed" in Report(args.output).rows()[-1]["failed"]


def test_parts_run_in_order_with_their_limits_until_the_time_is_up(tmp_path, monkeypatch):
    ran = []

    def run(part, module, args, limit):
        ran.append((part, limit))
        assert module == f"benchmarks.gpu.{part}"
        if part == "step":
            monkeypatch.setattr(time, "time", lambda: 1e12)
        Report(args.output).add(part, {"name": "x"})

    monkeypatch.setattr(command, "run_in_process", run)
    output = tmp_path / "new" / "rows.json"
    full = ["--minutes", "2", "--size", "full", "--output", str(output)]
    assert command.main(full) == 0
    assert [part for part, _ in ran] == ["tests", "kernels", "step"]
    assert ran[0][1] == 60 and ran[2][1] == pytest.approx(120, abs=5)
    rows = json.loads(output.read_text())["rows"]
    assert [row["part"] for row in rows] == list(command.PARTS)
    assert all("not_run" in row for row in rows[3:])


def test_one_part_has_all_the_time_and_a_failure_is_the_exit_status(tmp_path, monkeypatch):
    def run(part, module, args, limit):
        assert part == "loading" and limit == pytest.approx(180, abs=5)
        Report(args.output).add(part, {"name": "x", "failed": "why"})

    monkeypatch.setattr(command, "run_in_process", run)
    output = tmp_path / "rows.json"
    assert command.main(["--minutes", "3", "--only", "loading", "--output", str(output)]) == 1

# SPDX-License-Identifier: Apache-2.0
"""The comparison of two forms: what is timed, what is counted. No test asserts a time."""

import json

import pytest
import torch

from benchmarks import compare as module
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.compare import Case, Pair, compare, peak_mb, relative_l2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_runs_and_agrees(case, monkeypatch):
    if case.by_pydensecrf:
        pytest.importorskip("pydensecrf")
    monkeypatch.setattr(module, "seconds", lambda call: 2.0)
    monkeypatch.setattr(module, "peak_mb", lambda call, device: 1.5)
    row = compare(case, "cpu", tiny=True)
    assert 0 <= row["error"] < 0.02
    assert row["ratio"] == row["plain_seconds"] / row["seconds"]
    assert (row["plain_peak_mb"] is None) == case.by_pydensecrf


def test_a_plain_form_that_does_a_part_is_scaled_up(monkeypatch):
    monkeypatch.setattr(module, "seconds", lambda call: 2.0)
    pair = Pair(lambda: torch.ones(4), lambda: torch.ones(4), plain_fraction=0.25)
    row = compare(Case("part", lambda device, tiny: pair), "cpu", tiny=True)
    assert (row["seconds"], row["plain_seconds"], row["ratio"]) == (2.0, 8.0, 4.0)


def test_slow_forms_run_once_for_their_time(monkeypatch):
    monkeypatch.setattr(module, "_SLOW_S", -1.0)
    monkeypatch.setattr(module, "peak_mb", lambda call, device: None)
    runs = []
    pair = Pair(lambda: runs.append(1), lambda: runs.append(2), lambda ours, plain: 0.0)
    row = compare(Case("slow", lambda device, tiny: pair), "cpu", tiny=True)
    assert runs == [1, 2] and row["seconds"] > 0


def test_threads_are_as_the_case_asks_and_then_as_before():
    before, seen = torch.get_num_threads(), []

    def make(device, tiny):
        seen.append(torch.get_num_threads())
        return Pair(lambda: torch.ones(1), lambda: torch.ones(1))

    compare(Case("threads", make, threads=before + 1), "cpu", tiny=True)
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_peak_memory_is_of_what_lives_at_the_same_time():
    inputs = torch.ones(1_000_000)  # 4 MB, there before

    def call():
        for _ in range(3):
            (inputs + 1) * 2  # two of 4 MB, freed before the next round

    assert peak_mb(call, "cpu") == pytest.approx(8, rel=0.01)


def test_relative_error_takes_tuples_as_one_vector():
    plain = (torch.tensor([3.0]), torch.tensor([[4.0]]))
    assert relative_l2((torch.tensor([3.0]), torch.tensor([[4.5]])), plain) == pytest.approx(0.1)


def test_the_command_writes_the_chosen_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "seconds", lambda call: 2.0)
    monkeypatch.setattr(module, "find_spec", lambda name: None)  # no pydensecrf
    path = tmp_path / "rows.json"
    main(["--tiny", "--only", "lattice,patch_contrast", "--output", str(path)])
    assert [row["name"] for row in json.loads(path.read_text())] == ["patch_contrast"]
    assert "pip install pydensecrf2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "par,nothing"])
    assert "nothing" in capsys.readouterr().err

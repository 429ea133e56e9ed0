# SPDX-License-Identifier: Apache-2.0
"""The benchmark program: rows, what it keeps, what it cannot run. No test asserts a time."""

import json
import os
from functools import partial

import pytest
import torch

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.harness import FIELDS, Case, Pair, best_seconds, obstacle, relative_l2, run_case
from benchmarks.memory import cpu_peak_mb
from benchmarks.results import read_rows, update_rows
from benchmarks.scaling import order_of_growth
from dalnet.errors import UsageError

FIGURES = set(FIELDS) - {"name", "device"}


@pytest.fixture
def no_processes(monkeypatch):
    """Starting a process for each form would take seconds."""
    monkeypatch.setattr(
        harness, "cpu_peak_mb", lambda build, warm: 1.5 if build()() is not None else None
    )


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def by_key(path):
    return {(row["name"], row["device"]): row for row in json.loads(path.read_text())}


@pytest.mark.usefixtures("no_cuda")
def test_selected_rows_are_written_and_others_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "cpu_peak_mb", lambda build, warm: 1.5)
    path = tmp_path / "results.json"
    kept = {**dict.fromkeys(FIELDS, 2.0), "name": "lattice", "device": "cpu"}
    stale = {**kept, "name": "par"}
    update_rows(path, [kept, stale])
    main(["--small", "--output", str(path), "--only", "par,patch_contrast", "--repeats", "1"])

    rows = by_key(path)
    assert set(rows) == {
        *(("par", d) for d in ("cpu", "cuda")),
        *(("patch_contrast", d) for d in ("cpu", "cuda")),
        ("lattice", "cpu"),
    }
    assert rows["lattice", "cpu"] == kept
    for name in ("par", "patch_contrast"):
        row = rows[name, "cpu"]
        assert tuple(row) == FIELDS
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        assert 0 <= row["error"] < 1e-4
        assert row["ours_peak_mb"] == row["plain_peak_mb"] == 1.5
        assert all(rows[name, "cuda"][field] is None for field in FIGURES)
    assert capsys.readouterr().out.count("not run (no CUDA device)") == 2
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_runs_small(case):
    """Both forms are built again for the memory, too, and agree."""
    if note := obstacle(case, "cpu"):
        pytest.skip(note)
    row = run_case(case, "cpu", small=True, repeats=1)
    assert row["error"] < 0.02


def test_small_figures_are_not_written_unasked(monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.update_rows", lambda *_: pytest.fail("written"))
    monkeypatch.setattr(harness, "cpu_peak_mb", lambda build, warm: None)
    (row,) = main(["--small", "--only", "patch_contrast", "--device", "cpu", "--repeats", "1"])
    assert row["ours_peak_mb"] is None


def test_a_missing_module_is_named():
    case = Case("one", lambda device, small: pytest.fail("built"), needs="pydensecrf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "find_spec", lambda name: None)
        assert obstacle(case, "cpu") == "not run (pip install pydensecrf2)"


def test_slow_forms_run_twice(monkeypatch, no_processes):
    monkeypatch.setattr(harness, "_SLOW_S", -1.0)
    runs = []
    pair = Pair(lambda: runs.append(1), lambda: runs.append(2), lambda ours, plain: 0.0)
    seconds, _ = harness._times(pair, "cpu", repeats=4)
    assert runs == [1, 2] * 2 and min(seconds) > 0
    runs.clear()
    monkeypatch.setattr(harness, "_SLOW_S", 1e9)
    harness._times(pair, "cpu", repeats=2)
    assert runs == [1, 2] * 3  # once to warm, then in turn


def test_the_shortest_run_counts_and_a_quick_warming_run_does_not(monkeypatch):
    taken = iter([3.0, 9.0, 4.0, 2.5, 7.0])
    monkeypatch.setattr(harness, "timed", lambda call, device: (next(taken), None))
    quick, slow = lambda: None, lambda: None
    # Rounds: quick 3, slow 9; then quick 4 and 2.5.
    assert best_seconds([quick, slow], [1.0, 8.0], "cpu", 3) == [2.5, 8.0]


def test_bad_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--only", "par,nothing"])
    assert "unknown nothing" in capsys.readouterr().err
    path = tmp_path / "results.json"
    path.write_text('{"par": 1}')
    with pytest.raises(UsageError, match="not a results file"):
        read_rows(path)


def test_peak_memory_is_what_the_call_takes():
    """Of the call alone: neither of the inputs nor of what was freed before."""
    size = 40_000_000
    peak = cpu_peak_mb(partial(partial, os.urandom, size), partial(partial, os.urandom, 2 * size))
    if peak is None:
        pytest.skip("the system has no resettable peak")
    assert 0.9 * size / 1e6 < peak < 1.3 * size / 1e6


def test_relative_error_takes_tuples_as_one_vector():
    plain = (torch.tensor([3.0]), torch.tensor([[4.0]]))
    assert relative_l2((torch.tensor([3.0]), torch.tensor([[4.5]])), plain) == pytest.approx(0.1)


def test_order_of_growth():
    assert order_of_growth([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert order_of_growth([1, 2, 4], [3.0, None, 6.0]) == pytest.approx(0.5)
    assert order_of_growth([1, 2], [3.0, None]) is None

# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m dalnet_toyclip``."""

import sys
from pathlib import Path

import pytest
import torch

from dalnet_toyclip import __main__ as command
from dalnet_toyclip.cosines import Cosines
from dalnet_toyclip.handler import WEIGHTS
from dalnet_toyclip.train import TrainOptions


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(words)`` returns what the command would do."""
    calls = []

    def record(name, result):
        monkeypatch.setattr(command, name, lambda *args: calls.append((name, *args)) or result)

    record("train", "model")
    record("load_small", "model")
    record("evaluate", {"color (7)": 98.76})
    record("measure_cosines", {"scenes": Cosines(torch.ones(2), torch.zeros(2))})
    record("embed_words", "rows")
    for name in ("save_small", "export", "save_texts"):
        record(name, None)
    monkeypatch.chdir(tmp_path)

    def run_command(words):
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["x", *words.split()])
        command.main()
        return calls

    return run_command


def test_train(run):
    folder = Path("output/toyclip")
    assert run("train") == [
        ("train", TrainOptions(), folder, False),
        ("save_small", "model", folder / "toyclip.safetensors"),
    ]
    options = TrainOptions(iterations=3, seed=7)
    assert run("train --iterations 3 --seed 7 --output w --folder f --resume") == [
        ("train", options, Path("f"), True),
        ("save_small", "model", Path("w.safetensors")),
    ]
    assert Path("f", "log.txt").exists()


def test_evaluate_prints_both_tables(run, capsys):
    calls = run("evaluate f")
    assert [name for name, *_ in calls] == ["load_small", "evaluate", "measure_cosines"]
    assert calls[0][1] == Path("f")
    printed = capsys.readouterr().out
    assert "98.8" in printed and "1.000" in printed and "0.500" in printed


def test_export_and_texts(run):
    assert run("export o f") == [("export", Path("f"), Path("o.safetensors"))]
    loaded, embedded, saved = run("texts o")
    assert loaded == ("load_small", WEIGHTS)
    assert embedded[2] == saved[2] and len(saved[2]) == 11 and saved[2][-1] == "background"
    assert saved[3] == Path("o.safetensors")


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ("", 2, "command"),
        ("train --iterations 0", 2, "--iterations"),
        ("train --seed -1", 2, "--seed"),
        (f"train --folder {__file__}/x", 1, __file__),
    ],
)
def test_what_cannot_be_is_named(run, words, status, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(words)
    assert stopped.value.code == status and named in capsys.readouterr().err

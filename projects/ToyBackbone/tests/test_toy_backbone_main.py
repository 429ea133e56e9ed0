# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m dalnet_toy_backbone``."""

import sys
from pathlib import Path

import pytest

from dalnet_toy_backbone import __main__ as command
from dalnet_toy_backbone.train import TrainOptions


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(words)`` returns what the command would train, and where it would save it."""
    calls = []
    monkeypatch.setattr(command, "train", lambda *args: calls.extend(args) or "model")
    monkeypatch.setattr(command, "save_encoder", lambda *args: calls.extend(args))
    monkeypatch.setattr(command, "evaluate", lambda *args: calls.append(args[-1]))
    monkeypatch.chdir(tmp_path)

    def run_command(words):
        monkeypatch.setattr(sys, "argv", ["x", *words.split()])
        command.main()
        result = calls.copy()
        calls.clear()
        return result

    return run_command


def test_command_line(run):
    folder = Path("output/toy_backbone")
    file = folder.with_suffix(".safetensors")
    assert run("") == [TrainOptions(), folder, False, "model", file, False, True]
    called = run("--iterations 3 --seed 7 --output v --folder run --resume")
    options, output = TrainOptions(iterations=3, seed=7), Path("v.safetensors")
    assert called == [options, Path("run"), True, "model", output, False, True]
    assert Path("run", "log.txt").exists()


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ("--iterations 0", 2, "--iterations"),
        ("--seed -1", 2, "--seed"),
        (f"--folder {__file__}/x", 1, __file__),
    ],
)
def test_what_cannot_be_is_named(run, words, status, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(words)
    assert stopped.value.code == status and named in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""What tests of preparation share: the commands, run in this process."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def run_tool(monkeypatch):
    """Run a command in this process; a new one would import torch and Detectron2 every time."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(TOOLS / name), run_name="__main__")

    return run


@pytest.fixture
def last_words(run_tool, capsys):
    """Run a command that has to fail; returns the exit status and the last line on stderr."""

    def run(name, *arguments):
        with pytest.raises(SystemExit) as error:
            run_tool(name, *arguments)
        return error.value.code, capsys.readouterr().err.splitlines()[-1]

    return run

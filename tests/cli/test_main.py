# SPDX-License-Identifier: Apache-2.0
"""The command ``dalnet``: its sub-commands, their help, and how it refuses what it cannot do."""

import subprocess
import sys
from pathlib import Path

import pytest

from dalnet.cli import COMMANDS, build_parser, load_command, main

ROOT = Path(__file__).parents[2]


def last_words(capsys, *argv):
    """Return exit status and standard error of a command that fails."""
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in argv])
    return error.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_sub_command_has_a_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as error:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert error.value.code == 0
    assert text.count(f"dalnet {name}") >= 2  # the usage line and an example


def test_each_file_of_the_folder_is_a_sub_command():
    files = {path.stem.replace("_", "-") for path in (ROOT / "dalnet" / "cli").glob("*.py")}
    assert files - {"--init--", "arguments"} == {*COMMANDS}


def test_flags_mean_the_same_in_every_sub_command():
    meanings = {}
    for name in COMMANDS:
        parser = build_parser([name])._subparsers._group_actions[0].choices[name]
        for action in parser._actions:
            for flag in action.option_strings:
                meanings.setdefault(flag, {}).setdefault(action.dest, set()).add(name)
    assert {flag: found for flag, found in meanings.items() if len(found) > 1} == {}


def test_help_of_the_command_needs_neither_torch_nor_detectron2():
    code = "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None;"
    code += "from dalnet.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)


def test_unknown_sub_command_names_the_nearest(capsys):
    status, sentence = last_words(capsys, "evalute")
    assert status == 1 and "evaluate" in sentence and sentence.count("\n") == 1
    status, sentence = last_words(capsys, "xyz")
    assert status == 1 and all(name in sentence for name in COMMANDS)


def test_flags_behind_keys_are_refused(capsys):
    argv = ["train", "--config", "toy_dalnet", "SOLVER.MAX_ITER", "3", "--output", "out"]
    status, sentence = last_words(capsys, *argv)
    assert status == 1 and "--output" in sentence and "flags come before keys" in sentence


def test_error_about_a_parameter_names_its_flag(capsys):
    status, sentence = last_words(capsys, "train")
    assert status == 1 and sentence.startswith("error: --config: ")


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"install-detectron2", "completion"}))
def test_without_detectron2_the_command_says_how_to_get_it(capsys, monkeypatch, command):
    monkeypatch.setattr("dalnet.cli.find_spec", lambda name: None)
    status, sentence = last_words(capsys, command)
    assert status == 1 and "dalnet install-detectron2" in sentence and sentence.count("\n") == 1
    assert load_command("install-detectron2")


def test_info_names_versions_devices_and_folders(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    main(["info"])
    text = capsys.readouterr().out
    for word in ("torch", "detectron2", "CPU", "DALNet", "voc_dalnet", str(tmp_path)):
        assert word in text


def test_completion_covers_every_sub_command_and_flag(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS) and "--table-only" in script

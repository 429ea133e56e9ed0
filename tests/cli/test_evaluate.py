# SPDX-License-Identifier: Apache-2.0
"""The evaluation's command line: what it evaluates, and where its results go."""

import argparse
from pathlib import Path

import pytest
from helpers import refused

from dalnet.cli import main
from dalnet.cli.arguments import split_list
from dalnet.cli.evaluate import add_arguments, evaluate_in_process
from dalnet.errors import UsageError
from dalnet.evaluation.results import read_results


@pytest.fixture
def command(split, tmp_path):
    """Runs the command on CAMs at one scale; returns what it writes beside the checkpoint."""

    def execute(*arguments):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        argv = ["--split", split.name, "--sources", "cam", "--protocols", "ss", *arguments]
        args = parser.parse_args([str(part) for part in argv])
        result = evaluate_in_process(args)
        # Not in the folder of the split itself, where a training writes.
        usual = tmp_path / "run/evaluation" / split.name / "_".join(split_list(args.protocols))
        assert read_results(Path(args.output or usual, "results.json")) == result
        return result

    return execute


def test_config_and_checkpoint_are_found_in_every_way(command, checkpoint, split, tmp_path):
    expected = command("--weights", checkpoint.weights)
    assert [str(m["source"]) for m in expected["measurements"]] == ["cam"]
    assert command("--weights", checkpoint.weights.parent) == expected
    assert command("MODEL.WEIGHTS", checkpoint.weights) == expected
    config = tmp_path / "config.yaml"
    config.write_text(checkpoint.cfg.dump())
    chosen = ("--config", config, "--output", tmp_path / "run/evaluation" / split.name)
    found = command("--weights", checkpoint.weights, *chosen, "TEST.CRF.ITERS", 3)
    assert found["measurements"] == expected["measurements"]
    assert found["config"]["TEST"]["CRF"]["ITERS"] == 3
    with refused("weights"):
        command()


def test_lists_are_separated_by_commas(command, checkpoint):
    weights = ("--weights", checkpoint.weights)
    result = command(*weights, "--sources", "cam, sem_seg,", "--protocols", "ms+flip , ss")
    assert [(one["source"], one["protocol"]) for one in result["measurements"]] == [
        (source, protocol) for source in ("sem_seg", "cam") for protocol in ("ms+flip", "ss")
    ]
    with refused("protocols"):
        command(*weights, "--protocols", " ,")


def test_an_unknown_split_is_refused(command, checkpoint):
    with pytest.raises(UsageError, match="'nowhere'"):
        command("--weights", checkpoint.weights, "--split", "nowhere")


def test_the_command_as_a_whole(checkpoint, split, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(checkpoint.cfg.dump())
    argv = ["evaluate", "--config-file", config, "--split", split.name, "--sources", "cam"]
    argv = [str(part) for part in argv]
    main([*argv, "MODEL.WEIGHTS", str(checkpoint.weights)])
    (file,) = checkpoint.results.parent.glob("*/results.json")
    assert len(read_results(file)["measurements"]) == 2
    with pytest.raises(SystemExit):
        main([*argv, "--workers", "0", "MODEL.WEIGHTS", str(checkpoint.weights)])
    assert "error: --workers: " in capsys.readouterr().err


def test_alignment_is_measured_beside_the_results(command, checkpoint, tmp_path):
    command("--weights", checkpoint.weights, "--alignment")
    (file,) = tmp_path.rglob("alignment.json")
    assert (file.parent / "results.json").exists()

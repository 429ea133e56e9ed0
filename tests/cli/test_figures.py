# SPDX-License-Identifier: Apache-2.0
"""Drawing figures from the command line."""

import argparse
from types import SimpleNamespace

import pytest
from helpers import refused

from dalnet.cli import figures
from dalnet.errors import UsageError

SPLIT = "voc_2012_sem_seg_val"


@pytest.fixture
def command(voc_tree, voc_model):
    """Returns a function that draws figures of the tree's val split."""

    def execute(name, output, *arguments):
        parser = argparse.ArgumentParser()
        figures.add_arguments(parser)
        own = [name, "--split", SPLIT, "--output", output, *arguments]
        figures.run(parser.parse_args([str(part) for part in own]))

    return execute


def test_the_figure_is_written_and_nothing_else(command, voc_tree, voc_model, tmp_path):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    weights = "--weights", voc_model.weights
    arguments = {
        "cams": weights,
        "segmentations": ("--protocol", "ss+flip+crf", *weights),
        "compare": ("--model", "one: =", voc_model.weights, "--class-name", "dog"),
        "similarity": ("--stretch", "--config", voc_tree.config, "MODEL.WEIGHTS", *weights[1:]),
    }
    for name, own in arguments.items():
        command(name, tmp_path / f"{name}.png", "--count", 1, "--colorblind", *own)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert after - before == {tmp_path / f"{name}.png" for name in arguments}


@pytest.mark.parametrize(
    ("name", "output", "arguments", "where"),
    [
        ("cams", "a.jpg", ["--weights", "x.pth"], "a.jpg"),
        ("cams", "a.png", [], "weights"),
        ("cams", "a.png", ["--weights", "x.pth"], "x.pth"),
        ("compare", "a.png", ["--model", "A", "b", "--model", "A", "c"], "model"),
    ],
)
def test_mistakes_are_refused(command, tmp_path, name, output, arguments, where):
    with pytest.raises(UsageError) as error:
        command(name, tmp_path / output, *arguments)
    assert where in str(error.value)
    assert not (tmp_path / output).exists()


def test_an_unknown_image_is_refused(command, voc_model, tmp_path):
    with pytest.raises(UsageError, match="'nope'"):
        command("cams", tmp_path / "a.png", "--images", "nope", "--weights", voc_model.weights)
    with pytest.raises(UsageError, match="'mss'"):
        wrong = ("--protocol", "mss", "--weights", voc_model.weights)
        command("segmentations", tmp_path / "a.png", *wrong)


def test_without_a_head_only_labeled_images_are_segmented(
    command, voc_tree, voc_model, tmp_path, monkeypatch
):
    (voc_tree.voc / "image_tags.json").write_text('{"2007_000001": ["cat"]}')
    arguments = ("segmentations", tmp_path / "a.png", "--weights", voc_model.weights)
    command(*arguments, "--images", "2007_000000")
    monkeypatch.setattr(figures, "load_model", lambda cfg: SimpleNamespace(sources=["cam"]))
    with refused("images", "2007_000000"):
        command(*arguments, "--images", "2007_000000")

# SPDX-License-Identifier: Apache-2.0
"""The paired bootstrap of two predictions of one split."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dalnet.cli import main
from dalnet.data.image_io import write_mask
from dalnet.evaluation.bootstrap import paired_bootstrap
from dalnet.evaluation.counts import confusion_matrix, mean_iou

TOOL = Path(__file__).parents[2] / "tools" / "bootstrap.py"


def matrices_of(truths, errors, seed):
    """Confusion matrices of predictions with a fraction of wrong pixels in each image."""
    rng = np.random.default_rng(seed)
    predictions = [
        np.where(rng.random(truth.shape) < error, rng.integers(0, 3, truth.shape), truth)
        for truth, error in zip(truths, errors, strict=True)
    ]
    return np.stack([confusion_matrix(t, p, 3) for t, p in zip(truths, predictions, strict=True)])


@pytest.fixture
def truths():
    return np.random.default_rng(0).integers(0, 3, (40, 20, 20))


def test_difference_is_that_of_the_split_and_lies_inside_the_interval(truths):
    errors = np.random.default_rng(1).random(40)  # images differ in difficulty
    first, second = matrices_of(truths, 0.8 * errors, 1), matrices_of(truths, errors, 2)
    found = paired_bootstrap(first, second)
    assert found.value == pytest.approx(mean_iou(first.sum(0)) - mean_iou(second.sum(0)))
    assert 0 < found.low < found.value < found.high and found.better > 0.99
    other = paired_bootstrap(second, first)
    assert other.value == -found.value and other.better < 0.01
    assert paired_bootstrap(first, second) == found


def test_resampling_is_that_of_a_plain_loop(truths):
    first, second = (matrices_of(truths, np.full(40, e), i) for i, e in enumerate((0.3, 0.32)))
    rng, differences = np.random.default_rng(0), []
    for _ in range(500):
        chosen = rng.integers(40, size=40)
        differences.append(mean_iou(first[chosen].sum(0)) - mean_iou(second[chosen].sum(0)))
    found = paired_bootstrap(first, second, rounds=500)
    assert [found.low, found.high] == pytest.approx(
        np.percentile(differences, [2.5, 97.5]), abs=0.3
    )


def test_equal_predictions_do_not_differ(truths):
    matrices = matrices_of(truths, np.full(40, 0.3), 0)
    found = paired_bootstrap(matrices, matrices)
    assert (found.value, found.low, found.high, found.better) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="one split"):
        paired_bootstrap(matrices, matrices[:3])


def test_images_without_a_pixel_that_counts(truths):
    first, second = (matrices_of(truths[:2], np.full(2, e), 0) for e in (0.1, 0.5))
    first[1], second[1] = 0, 0  # a mask of ignored pixels alone; often the only one drawn
    found = paired_bootstrap(first, second)
    assert found.low == found.value == found.high > 0 and found.better == 1
    with pytest.raises(ValueError, match="no pixel"):
        paired_bootstrap(first[1:], second[1:])


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("bootstrap_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tool_compares_two_dumps(checkpoint, split, tmp_path, capsys, tool):
    argv = ["--weights", checkpoint.weights, "--split", split.name, "--dump", tmp_path / "dump"]
    argv += ["--sources", "sem_seg,cam", "--protocols", "ss"]
    main(["evaluate", *map(str, argv)])
    capsys.readouterr()
    for source in ("sem_seg", "cam"):
        folder = str(tmp_path / "dump" / source / "ss")
        tool.main([folder, folder, "--split", split.name])
        assert "mIoU +0.00" in capsys.readouterr().out
    (tmp_path / "dump/cam/ss/classes.txt").write_text("dog\ncat\nowl\n")
    with pytest.raises(SystemExit):
        tool.main([folder, folder, "--split", split.name])
    assert "classes.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path), str(tmp_path), "--split", split.name])
    assert "no prediction" in capsys.readouterr().err


def test_tool_leaves_out_images_that_have_no_labels(checkpoint, split, tmp_path, capsys, tool):
    split.records[0].update(image_labels=[], unknown_labels=[0, 1, 2])
    argv = ["--weights", checkpoint.weights, "--split", split.name, "--dump", tmp_path / "dump"]
    argv += ["--sources", "sem_seg,cam", "--protocols", "ss"]
    main(["evaluate", *map(str, argv)])
    head, cams = (str(tmp_path / "dump" / source / "ss") for source in ("sem_seg", "cam"))
    capsys.readouterr()
    tool.main([head, cams, "--split", split.name])
    assert "1 of 4 images" in capsys.readouterr().out
    tool.main([head, head, "--split", split.name])
    assert "left out" not in capsys.readouterr().out


def test_tool_refuses_values_that_are_no_classes(split, tmp_path, capsys, tool):
    folder = tmp_path / "others" / "SegmentationClass"
    folder.mkdir(parents=True)
    for index in range(4):
        # Of four classes, so that 5 would be counted as the next class of the truth.
        write_mask(folder / f"{index}.png", np.full((40, 50), 5, np.uint8))
    with pytest.raises(SystemExit):
        tool.main([str(folder.parent)] * 2 + ["--split", split.name])
    assert "the value 5" in capsys.readouterr().err

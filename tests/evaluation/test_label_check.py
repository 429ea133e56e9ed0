# SPDX-License-Identifier: Apache-2.0
"""Labels and masks of the same images: where they differ is counted and said."""

import numpy as np
import pytest
import torch
from PIL import Image

from dalnet.checkpoint import load_model
from dalnet.engine import Trainer
from dalnet.evaluation.label_check import (
    compare_labels,
    describe_differences,
    label_differences,
)
from dalnet.evaluation.results import read_results
from dalnet.evaluation.run import evaluate

NAMES = ["background", "cat", "dog", "owl"]


def test_differences_are_counted_by_class():
    truth = np.array([[0, 1], [3, 255]])
    # A cat that is there, a dog that is not, an owl without a label.
    table = compare_labels(torch.tensor([1.0, 1.0, 0.0]), None, truth)
    assert table.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    known = torch.tensor([True, True, False])
    table = table + compare_labels(torch.tensor([0.0, 1.0, 0.0]), known, np.array([[2, 3]]))
    assert table.tolist() == [[1, 0, 1, 0], [2, 1, 1, 0], [0, 0, 1, 1]]
    found = label_differences(table, NAMES)
    assert list(found) == ["dog", "owl"]
    text = describe_differences(found)
    assert "dog 1 of 2" in text and "owl 1 of 1" in text and "no mask shows" not in text


def test_nothing_is_said_where_they_agree():
    table = compare_labels(torch.tensor([1.0, 0.0]), None, np.array([[1, 255]]))
    assert label_differences(table, NAMES[:3]) == {}
    assert describe_differences({}) == ""


def test_a_class_that_no_mask_shows_is_explained():
    table = compare_labels(torch.tensor([1.0]), None, np.array([[0, 255]]))
    assert "no mask shows cat" in describe_differences(label_differences(table, NAMES[:2]))
    # Another image shows it in its mask, but nobody has said so: not every mask lacks it.
    table = table + compare_labels(torch.zeros(1), torch.tensor([False]), np.array([[1, 1]]))
    text = describe_differences(label_differences(table, NAMES[:2]))
    assert "no mask shows cat where its label is known" in text


@pytest.mark.parametrize("program", ["training", "evaluation"])
def test_an_evaluation_warns_and_keeps_the_counts(checkpoint, split, tmp_path, caplog, program):
    cfg = checkpoint.cfg

    def differences():
        caplog.clear()
        if program == "training":
            Trainer.test(cfg, load_model(cfg))
            return read_results(checkpoint.results).get("label_differences")
        result = evaluate(cfg, split.name, protocols=["ss"], output=tmp_path / "results")
        return result.get("label_differences")

    assert differences() is None and "differ" not in caplog.text
    # A mask of 0 and 255, as programs write that know one class.
    path = split.records[0]["sem_seg_file_name"]
    Image.fromarray(np.where(np.array(Image.open(path)) == 1, 255, 0).astype(np.uint8)).save(path)
    split.records[1].update(image_labels=[0], unknown_labels=[2])
    assert differences() == {
        "cat": {"labeled": 3, "labeled_without_pixel": 2, "in_mask": 1, "in_mask_unlabeled": 0},
        "dog": {"labeled": 1, "labeled_without_pixel": 0, "in_mask": 2, "in_mask_unlabeled": 1},
    }
    assert f"{split.name}: image-level labels and masks differ" in caplog.text
    assert "cat 2 of 3" in caplog.text and "dog 1 of 2" in caplog.text

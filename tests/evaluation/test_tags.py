# SPDX-License-Identifier: Apache-2.0
"""Average precision of tags against its definition, and a training's evaluation without masks."""

import math

import numpy as np
import pytest
from helpers import make_model, refused

from dalnet.engine.trainer import Trainer
from dalnet.evaluation import build_evaluator
from dalnet.evaluation.results import format_tags, read_results
from dalnet.evaluation.tags import (
    ImageClassifier,
    TagsEvaluator,
    average_precision,
    measure_tags,
)


def by_definition(scores, shown):
    """The sum over thresholds of the gain in recall times the precision."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        found = (taken & shown).sum()
        total += (found - before) / shown.sum() * found / taken.sum()
        before = found
    return total


@pytest.mark.parametrize("levels", [3, 10, 10_000])
def test_average_precision_is_that_of_its_definition(levels):
    rng = np.random.default_rng(levels)
    for size in (1, 2, 7, 60):
        scores = rng.integers(0, levels, size) / levels
        shown = rng.random(size) < 0.4
        shown[rng.integers(size)] = True
        expected = by_definition(scores, shown)
        assert average_precision(scores, shown) == pytest.approx(expected)


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    assert average_precision(scores, np.array([1, 0, 1, 0], bool)) == pytest.approx(5 / 6)
    assert average_precision(scores, np.array([1, 1, 0, 0], bool)) == 1
    assert average_precision(np.zeros(4), np.array([1, 0, 0, 0], bool)) == 0.25
    assert math.isnan(average_precision(scores, np.zeros(4, bool)))


def test_only_images_with_a_known_tag_count():
    records = {
        "a": {"image_labels": [0]},
        "b": {"image_labels": [], "unknown_labels": [0]},
        "c": {"image_labels": [], "unknown_labels": [1]},
    }
    logits = {"a": [1, 0, 0], "b": [2, 0, 0], "c": [0, 0, 0]}
    found = measure_tags({k: np.array(v, float) for k, v in logits.items()}, records, "xyz")
    # The image b, whose score is larger, counts for nothing.
    assert found["classes"]["x"] == {"average_precision": 100.0, "shown": 1, "known": 2}
    assert found["classes"]["z"] == {"average_precision": None, "shown": 0, "known": 3}
    assert found["mean_average_precision"] == 100.0


@pytest.fixture
def cfg(split, tiny_cfg, tmp_path):
    for record in split.records:
        del record["sem_seg_file_name"]
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = (split.name,)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "out")
    return tiny_cfg


def test_a_split_without_masks_is_measured_by_its_tags(cfg, split, tmp_path, caplog):
    split.records[3].update(image_labels=[], unknown_labels=[0, 1, 2])
    model = make_model(cfg).train()
    with caplog.at_level("INFO"):
        results = Trainer.test(cfg, model)
    assert model.training
    logits = {
        record["image_id"]: ImageClassifier(model.eval())([{"image": image}])[0].numpy()
        for record, image in zip(split.records, images_of(cfg, split), strict=True)
    }
    expected = measure_tags(
        logits, {r["image_id"]: r for r in split.records}, ("cat", "dog", "owl")
    )
    assert results["tags"]["mAP"] == pytest.approx(expected["mean_average_precision"])
    assert math.isnan(results["tags"]["AP-owl"])
    written = read_results(tmp_path / "out/evaluation" / split.name / "results.json")
    assert written["tags"] == expected and written["num_images"] == 4
    assert written["tags"]["classes"]["cat"]["known"] == 3
    assert "mean average precision" in format_tags(written) and format_tags(written) in caplog.text


def images_of(cfg, split):
    return [record["image"] for (record,) in Trainer.build_test_loader(cfg, split.name)]


def test_splits_with_and_without_masks_are_told_apart(cfg, split):
    assert isinstance(build_evaluator(cfg, split.name), TagsEvaluator)
    split.records[0]["sem_seg_file_name"] = "0.png"
    with refused(split.name, "mask"):
        build_evaluator(cfg, split.name)
    del split.records[0]["sem_seg_file_name"]
    for record in split.records:
        record["image_labels"] = []
    with refused(split.name, "mask"):
        build_evaluator(cfg, split.name)

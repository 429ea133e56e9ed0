# SPDX-License-Identifier: Apache-2.0
"""Counts against plain loops and against Detectron2's own evaluator."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dalnet.evaluation.confusion import class_ious, confusion_matrix, labelled_share, mean_iou
from dalnet.evaluation.evaluator import LabelMapEvaluator
from dalnet.evaluation.protocol import Source

CLASSES = ["background", "cat", "dog", "owl", "fox"]


def random_maps(rng, values, count=3, size=(9, 11)):
    return [rng.choice(values, size).astype(np.uint8) for _ in range(count)]


def test_matrix_and_ious_are_plain_counts():
    rng = np.random.default_rng(0)
    truth = random_maps(rng, [0, 1, 2, 255], 1)[0]
    prediction = random_maps(rng, [0, 1, 3, 255], 1)[0]
    matrix = confusion_matrix(truth, prediction, 4)
    expected = np.zeros((4, 5), int)
    for t, p in zip(truth.reshape(-1), prediction.reshape(-1), strict=True):
        if t != 255:
            expected[t, 4 if p == 255 else p] += 1
    np.testing.assert_array_equal(matrix, expected)

    ious = class_ious(matrix)
    for c in range(3):
        both = (truth != 255) & (prediction != 255)
        inside = (both & (truth == c) & (prediction == c)).sum()
        union = (both & ((truth == c) | (prediction == c))).sum()
        assert ious[c] == pytest.approx(100 * inside / union)
    # Predicted but never shown: no IoU, and not in the mean.
    assert np.isnan(ious[3]) and (prediction == 3).any()
    assert mean_iou(matrix) == pytest.approx(ious[:3].mean())
    seen = truth != 255
    assert labelled_share(matrix) == pytest.approx(100 * (prediction[seen] != 255).mean())


def test_nothing_to_count_is_nan():
    matrix = confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2)), 3)
    assert not matrix.any()
    assert np.isnan(mean_iou(matrix)) and np.isnan(class_ious(matrix)).all()


def test_other_ignore_labels():
    truth, prediction = np.array([[0, 1, 9]]), np.array([[9, 1, 0]])
    np.testing.assert_array_equal(
        confusion_matrix(truth, prediction, 2, ignore=9), [[0, 0, 1], [0, 1, 0]]
    )


@pytest.fixture
def split(tmp_path):
    rng = np.random.default_rng(1)
    truths = random_maps(rng, [0, 1, 2, 3, 255])
    records = []
    for index, truth in enumerate(truths):
        mask = tmp_path / f"{index}.png"
        Image.fromarray(truth).save(mask)
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(mask)})
    name = f"confusion_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255)
    yield name, records, truths
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4], [0, 1, 2, 255]])
def test_results_are_those_of_detectron2(split, values):
    name, records, truths = split
    predictions = random_maps(np.random.default_rng(2), values)
    evaluator = LabelMapEvaluator(name, Source("pseudo_label", "", ""), 0.5)
    evaluator.reset()
    outputs = [{"pseudo_label": torch.from_numpy(p.astype(np.int64))} for p in predictions]
    evaluator.process(records, outputs)
    theirs = evaluator.evaluate()["pseudo_label"]

    pairs = zip(truths, predictions, strict=True)
    matrix = sum(confusion_matrix(truth, prediction, 5) for truth, prediction in pairs)
    assert mean_iou(matrix) == pytest.approx(theirs["mIoU"])
    for label, value in zip(CLASSES, class_ious(matrix), strict=True):
        assert value == pytest.approx(theirs[f"IoU-{label}"], nan_ok=True)

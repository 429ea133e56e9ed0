# SPDX-License-Identifier: Apache-2.0
"""Measurements of one image against the model's own forward, and what goes into the CRF."""

import numpy as np
import pytest
import torch
from helpers import make_item
from helpers import make_model as make_untrained

from dalnet.evaluation.crf import CRFTask
from dalnet.evaluation.scorer import ImageCAMs, ImageScorer
from dalnet.evaluation.sources import make_measurements


@pytest.fixture
def model(tiny_cfg):
    tiny_cfg.TEST.MULTI_SCALE.ENABLED = True
    return make_untrained(tiny_cfg).eval()


@pytest.fixture
def item():
    return make_item(0, labels=(1, 4)) | {"height": 50, "width": 61}


def predict(model, cfg, item, *protocols, sources=()):
    measurements = make_measurements(cfg, model.sources, sources, protocols)
    (predictions,) = ImageScorer(model, measurements)([item])
    return {str(measurement): prediction for measurement, prediction in predictions.items()}


def test_ms_flip_is_what_forward_returns(model, tiny_cfg, item):
    with torch.no_grad():
        expected = model([item])[0]
    found = predict(model, tiny_cfg, item, "ms+flip")
    assert len(found) == 4
    for name, values in expected.items():
        prediction = found[f"{name}/ms+flip"]
        if isinstance(prediction, ImageCAMs):
            torch.testing.assert_close(prediction.cams, values[[1, 4]])
            assert prediction.image_classes == (1, 4)
            assert prediction.cams.amax() > 0.5
            continue
        labels = values.argmax(0) if name == "sem_seg" else values
        assert prediction.shape == (50, 61) and prediction.dtype == np.uint8
        np.testing.assert_array_equal(prediction, labels.numpy())
        assert len(np.unique(prediction)) > 1


def test_measurements_share_their_passes(model, tiny_cfg, item):
    seen = []
    model.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 0.5)
    predict(model, tiny_cfg, item, "ss", "ss+flip", "ms", "ms+flip", "ms+flip+crf")
    assert [tuple(shape) for shape in seen] == [(2, 3, 32, 32), (2, 3, 16, 16)]


def test_only_the_head_says_something_about_an_image_without_labels(model, tiny_cfg, item):
    expected = predict(model, tiny_cfg, item, "ss", sources=["sem_seg"])["sem_seg/ss"]
    del item["image_labels"]
    found = predict(model, tiny_cfg, item, "ss", "ss+crf")
    assert set(found) == {"sem_seg/ss", "sem_seg/ss+crf"}
    np.testing.assert_array_equal(found["sem_seg/ss"], expected)


def test_an_image_that_shows_no_class_is_background_everywhere(model, tiny_cfg, item):
    item["image_labels"].zero_()
    found = predict(model, tiny_cfg, item, "ss", "ss+crf")
    assert set(found) == {f"{source}/{p}" for source in model.sources for p in ("ss", "ss+crf")}
    for name in ("cam/ss+crf", "pseudo_label/ss", "pseudo_label/ss+crf"):
        np.testing.assert_array_equal(found[name], np.zeros((50, 61), np.uint8))
    assert found["cam/ss"].cams.shape == (0, 50, 61)


def test_crf_tasks_are_distributions_of_the_possible_labels(model, tiny_cfg, item):
    found = predict(model, tiny_cfg, item, "ss", "ss+crf")
    for source in model.sources:
        plain, task = found[f"{source}/ss"], found[f"{source}/ss+crf"]
        assert isinstance(task, CRFTask)
        assert task.labels == (tuple(range(11)) if source == "sem_seg" else (0, 2, 5))
        assert task.probs.shape == (len(task.labels), 50, 61)
        assert (task.image.shape, task.image.dtype) == ((50, 61, 3), np.uint8)
        np.testing.assert_allclose(task.probs.sum(0), 1, rtol=1e-5)
        # The CRF starts from the labels that it refines.
        start = np.array(task.labels)[task.probs.argmax(0)]
        if isinstance(plain, ImageCAMs):
            value, index = plain.cams.max(dim=0)
            plain = np.where(value > 0.5, np.array([2, 5])[index], 0)
        known = plain != 255
        np.testing.assert_array_equal(start[known], plain[known])
        if source == "pseudo_label":
            assert not known.all()
            np.testing.assert_allclose(task.probs[:, ~known], 1 / 3)
            np.testing.assert_allclose(task.probs.max(0)[known], 0.7)

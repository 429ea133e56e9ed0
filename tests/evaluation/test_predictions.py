# SPDX-License-Identifier: Apache-2.0
"""Rows of one photograph against the model's own forward, and what goes into the CRF."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from dalnet.evaluation.predictions import RowPredictor
from dalnet.evaluation.protocol import SOURCES, make_rows
from dalnet.modeling.cam import cam_scores

KEYS = {"seg": "sem_seg", "cam": "cam", "cam_inter": "cam_inter", "pseudo": "pseudo_label"}


@pytest.fixture
def model(tiny_cfg):
    tiny_cfg.TEST.MULTI_SCALE.ENABLED = True
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    with torch.no_grad():
        for classifier in (model.classifier, model.inter_classifier):
            classifier.linear.weight.mul_(20)
    return model


def make_item(labels=(1, 4), size=(32, 40)):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    multi_hot = torch.zeros(10)
    multi_hot[list(labels)] = 1
    image = (255 * F.interpolate(coarse, size=size, mode="bilinear"))[0].byte()
    return {"image": image, "image_labels": multi_hot, "height": 50, "width": 61}


def predict(model, cfg, sources, protocols, item):
    predictor = RowPredictor(model, make_rows(cfg, sources, protocols), 0.5)
    return {str(prediction.row): prediction for prediction in predictor(item)}


def test_ms_flip_is_what_forward_returns(model, tiny_cfg):
    item = make_item()
    with torch.no_grad():
        expected = model([item])[0]
    found = predict(model, tiny_cfg, ",".join(SOURCES), "ms+flip", item)
    for source, key in KEYS.items():
        prediction = found[f"{source}/ms+flip"]
        assert prediction.labels.shape == (50, 61) and prediction.labels.dtype == np.uint8
        labels = expected[key]
        if source == "seg":
            labels = labels.argmax(0)
        elif source != "pseudo":
            torch.testing.assert_close(prediction.cams, labels[[1, 4]])
            assert prediction.present == (1, 4)
            labels = cam_scores(labels[None], item["image_labels"][None], 0.5)[0].argmax(0)
        np.testing.assert_array_equal(prediction.labels, labels.numpy())
        assert len(np.unique(prediction.labels)) > 1


def test_rows_share_their_passes(model, tiny_cfg):
    seen = []
    model.backbone.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 0.5)
    predict(model, tiny_cfg, ",".join(SOURCES), "ss,ss+flip,ms,ms+flip,ms+flip+crf", make_item())
    assert [tuple(shape) for shape in seen] == [(2, 3, 32, 40), (2, 3, 16, 20)]


def test_only_the_head_says_something_about_a_photograph_without_labels(model, tiny_cfg):
    item = make_item()
    expected = predict(model, tiny_cfg, "seg", "ss", item)["seg/ss"].labels
    del item["image_labels"]
    found = predict(model, tiny_cfg, ",".join(SOURCES), "ss,ss+crf", item)
    assert set(found) == {"seg/ss", "seg/ss+crf"}
    np.testing.assert_array_equal(found["seg/ss"].labels, expected)


def test_crf_jobs_are_distributions_of_the_possible_labels(model, tiny_cfg):
    found = predict(model, tiny_cfg, ",".join(SOURCES), "ss,ss+crf", make_item((1, 4)))
    possible = (0, 2, 5)
    for source in SOURCES:
        plain, refined = found[f"{source}/ss"], found[f"{source}/ss+crf"]
        job = refined.crf
        assert refined.labels is None and plain.crf is None
        assert job.values == (tuple(range(11)) if source == "seg" else possible)
        assert job.probs.shape == (len(job.values), 50, 61)
        assert (job.photograph.shape, job.photograph.dtype) == ((50, 61, 3), np.uint8)
        np.testing.assert_allclose(job.probs.sum(0), 1, rtol=1e-5)
        # The CRF starts from the labels that it refines.
        start = np.array(job.values)[job.probs.argmax(0)]
        known = plain.labels != 255
        np.testing.assert_array_equal(start[known], plain.labels[known])
        if source == "pseudo":
            assert not known.all()
            np.testing.assert_allclose(job.probs[:, ~known], 1 / 3)
            np.testing.assert_allclose(job.probs.max(0)[known], 0.7)

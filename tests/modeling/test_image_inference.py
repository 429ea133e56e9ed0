# SPDX-License-Identifier: Apache-2.0
"""What a model says about one image: shared passes, sizes, classes, pseudo labels, CRF."""

import pytest
import torch
import torch.nn.functional as F
from helpers import make_item, make_model, raw_cams

from dalnet.layers import dense_crf
from dalnet.modeling.cam import multi_scale_cam
from dalnet.modeling.pseudo_labels import refine

SCALES, SIZE, CLASSES = (1.0, 0.5), (50, 41), (4, 1)


@pytest.fixture
def model(tiny_cfg):
    return make_model(tiny_cfg).eval()


@pytest.fixture
def images():
    return make_item(0)["image"][None].float()


@torch.no_grad()
def test_cams_are_those_of_the_chosen_classes_at_the_wanted_size(model, images):
    cams = model.infer(images, SIZE, CLASSES).cams("cam_inter", SCALES, flip=True)
    everything = multi_scale_cam(
        lambda views: raw_cams(model, views), model.normalize(images), SCALES
    )[1]
    expected = F.interpolate(everything[:, CLASSES], SIZE, mode="bilinear")[0]
    torch.testing.assert_close(cams, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pseudo_labels_are_the_refined_cams_in_the_names_of_the_classes(model, images):
    images = images[:, :, :24]
    found = model.infer(images, (24, 32), CLASSES).pseudo_label(SCALES, flip=True)
    cams = multi_scale_cam(lambda views: raw_cams(model, views), model.normalize(images), SCALES)[0]
    labels = torch.zeros(1, 10)
    labels[0, list(CLASSES)] = 1
    boxes = torch.tensor([[0, 24, 0, 32]])
    assert torch.equal(found, refine(model.par, images / 255, cams, labels, boxes, 0.25, 0.7)[0])


@torch.no_grad()
def test_an_image_without_classes_has_no_cams_and_is_all_background(model, images):
    image = model.infer(images, SIZE)
    assert image.cams("cam", SCALES, flip=True).shape == (0, *SIZE)
    assert image.cams("cam", SCALES, flip=True, size=(5, 4)).shape == (0, 5, 4)
    assert not image.pseudo_label(SCALES, flip=True).any()


@torch.no_grad()
def test_everything_shares_the_passes_of_the_encoder(model, images):
    seen, encode = [], model.backbone.forward
    model.backbone.forward = lambda views: seen.append(tuple(views.shape)) or encode(views)
    image = model.infer(images, SIZE, CLASSES)
    assert seen == []
    image.pseudo_label(SCALES, flip=True)
    assert seen == [(2, 3, 32, 32), (2, 3, 16, 16)], "both copies of a scale as one batch"
    image.cams("cam", SCALES, flip=True)
    image.cams("cam_inter", (1.0,), flip=False)
    image.probabilities((1.0, 0.5), flip=True)
    image.features()
    assert len(seen) == 2


@torch.no_grad()
def test_the_crf_sees_the_image_at_the_size_of_the_result(model, images):
    image = model.infer(images, SIZE)
    probabilities = image.probabilities((1.0,), flip=False)
    assert probabilities.shape == (11, *SIZE)
    large = F.interpolate(images, SIZE, mode="bilinear").round().to(torch.uint8)
    assert torch.equal(image.crf_images(), large.permute(0, 2, 3, 1))
    expected = dense_crf(large.permute(0, 2, 3, 1).contiguous(), probabilities[None], iters=2)[0]
    torch.testing.assert_close(image.refine_by_crf(probabilities, iters=2), expected)

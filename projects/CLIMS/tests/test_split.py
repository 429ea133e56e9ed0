# SPDX-License-Identifier: Apache-2.0
"""Processes and parts train as one that has all images, whatever pairs each of them has."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_parts_change_nothing, assert_split_changes_nothing

IMAGES = 4
LABELS = ((1, 4), (2,), (0, 5, 9), (3, 4, 7))
# Statistics of batches are those of each process.
FIXED = ("MODEL.CNN.NORM", "FixedBN")


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 8, 8, generator=generator)
    return (255 * F.interpolate(coarse, (64, 64), mode="bilinear")).byte()


def records(images):
    labels = torch.zeros(IMAGES, 10)
    known = torch.ones(IMAGES, 10, dtype=torch.bool)
    for number, classes in enumerate(LABELS):
        labels[number, list(classes)] = 1
    known[0, 5:] = False
    box = torch.tensor([0, 64, 0, 64])
    return [
        {"image": image, "image_labels": label, "known_labels": k, "image_box": box}
        for image, label, k in zip(images, labels, known, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("assert_same", [assert_split_changes_nothing, assert_parts_change_nothing])
@pytest.mark.parametrize("reference", [0, 16])
def test_clims(clims_cfg, images, tmp_path, reference, assert_same):
    clims_cfg.merge_from_list(
        [*FIXED, "MODEL.CLIMS.CBS_THRESHOLD", 0.0, "MODEL.CLIMS.CBS_REFERENCE_BATCH", reference]
    )
    assert_same(clims_cfg, records(images), tmp_path)


@pytest.mark.slow
def test_stage_0(stage0_cfg, images, tmp_path):
    assert_split_changes_nothing(stage0_cfg, records(images), tmp_path)


@pytest.mark.slow
def test_each_process_may_count_for_itself(clims_cfg, images, tmp_path):
    clims_cfg.merge_from_list([*FIXED, "SOLVER.GLOBAL_LOSS_STATISTICS", False])
    with pytest.raises(AssertionError):
        assert_split_changes_nothing(clims_cfg, records(images), tmp_path)

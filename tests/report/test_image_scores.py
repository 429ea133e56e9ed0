# SPDX-License-Identifier: Apache-2.0
"""mIoU image by image, and which images are chosen."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dalnet.errors import UsageError
from dalnet.report.image_scores import choose_images, score_images


class LeftHalf(nn.Module):
    """Says class 2 on the left half, background elsewhere; refuses to be given labels."""

    def forward(self, batched_inputs):
        assert not self.training
        (item,) = batched_inputs
        assert "image_labels" not in item
        scores = torch.zeros(3, item["height"], item["width"])
        scores[2, :, : item["width"] // 2] = 1.0
        return [{"sem_seg": scores}]


def write(path, mask):
    Image.fromarray(mask.astype(np.uint8)).save(path)
    height, width = mask.shape
    labels = torch.ones(2)
    size = {"height": height, "width": width, "image_labels": labels}
    return {"file_name": str(path), "sem_seg_file_name": str(path), **size}


def test_scores_by_hand(tmp_path):
    right, quarter, void = np.zeros((8, 8)), np.zeros((8, 8)), np.full((8, 8), 255)
    right[:, :4] = 2
    quarter[:4, :4] = 2  # IoU 50; background 32 of 48
    quarter[7, 7] = 255  # 31 of 47
    model = LeftHalf().train()
    items = [write(tmp_path / f"{i}.png", m) for i, m in enumerate([right, quarter, void])]
    scores = list(score_images(model, iter(items)))
    assert scores[0] == pytest.approx(100)
    assert scores[1] == pytest.approx((50 + 100 * 31 / 47) / 2)
    assert math.isnan(scores[2])
    assert model.training
    assert all("image_labels" in item for item in items)


def test_a_wrong_mask_is_named(tmp_path):
    item = write(tmp_path / "odd.png", np.zeros((8, 8)))
    item["height"] = 9
    with pytest.raises(UsageError, match=r"odd\.png is \(8, 8\)"):
        list(score_images(LeftHalf(), [item]))


def test_best_and_worst_are_ordered_and_apart():
    scores = [50.0, math.nan, 90.0, 10.0, 70.0, 30.0]
    groups = choose_images(scores, 2)
    assert groups["best"] == [2, 4]
    assert groups["worst"] == [3, 5]
    assert len(set(groups["random"])) == 2
    groups = choose_images(scores, 40)
    assert groups["best"] == [2, 4, 0]
    assert groups["worst"] == [3, 5]
    assert sorted(groups["random"]) == list(range(6))


def test_random_images_do_not_depend_on_the_scores():
    first = choose_images([float(i) for i in range(100)], 5)["random"]
    second = choose_images([math.nan] * 100, 5)
    assert second == {"random": first}
    assert first != list(range(5))


def test_a_single_scored_image_is_only_the_best():
    assert choose_images([40.0], 3) == {"best": [0], "random": [0]}

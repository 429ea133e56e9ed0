# SPDX-License-Identifier: Apache-2.0
"""Stage 0: its loss and maps by hand, and labels of which nothing is known."""

import torch
import torch.nn.functional as F
from detectron2.modeling import build_model


def make_records():
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(3, 3, 64, 64, generator=generator) * 255).byte()
    labels = torch.eye(10)[[1, 4, 1]] + torch.eye(10)[[2, 7, 9]]
    box = torch.tensor([0, 64, 0, 64])
    return [
        {"image": image, "image_labels": row, "image_box": box}
        for image, row in zip(images, labels, strict=True)
    ]


def test_the_loss_by_hand(stage0_cfg):
    torch.manual_seed(0)
    model = build_model(stage0_cfg).train()
    records = make_records()
    images = torch.stack([record["image"] for record in records]).float()
    labels = torch.stack([record["image_labels"] for record in records])
    features = model.backbone(model.normalize(images))["map"]
    weight = model.classifier.linear.weight
    logits = torch.einsum("cd,nd->nc", weight, features.mean((2, 3)))
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(model(records)["loss_cls"], expected)
    maps = model.maps("cam", {"map": features})
    torch.testing.assert_close(maps.mean((2, 3)), logits)
    assert model.map_stride == 8 and maps.shape == (3, 10, 8, 8)

    known = torch.ones(3, 10, dtype=torch.bool)
    known[0, 5:] = known[2] = False
    for record, row in zip(records, known, strict=True):
        record["known_labels"] = row
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known])
    torch.testing.assert_close(model(records)["loss_cls"], expected)

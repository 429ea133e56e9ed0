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


def test_cams_of_an_image_as_published(stage0_cfg):
    """Rectified maps of image and flipped copy are added, enlarged to whole places, and cut."""
    torch.manual_seed(0)
    model = build_model(stage0_cfg).eval()
    model.classifier.linear.weight.data.normal_()
    image = torch.rand(1, 3, 45, 62, generator=torch.Generator().manual_seed(1)) * 255
    scales, classes = (1.0, 0.5, 2.0), (2, 7)
    with torch.no_grad():
        found = model.infer(image, (45, 62), classes).cams("cam", scales, True)
        total = torch.zeros(1, 10, 45, 62)
        for scale in scales:
            size = [int(scale * side) for side in (45, 62)]
            seen = F.interpolate(model.normalize(image), size, mode="bilinear")
            raw, flipped = (
                model.maps("cam", model.encode(x)).relu() for x in (seen, seen.flip(-1))
            )
            joined = F.interpolate(raw + flipped.flip(-1), (48, 64), mode="bilinear")
            total += joined[..., :45, :62]
    total = total[0, list(classes)]
    assert (total.amin((1, 2)) > 0).any(), "the minimum is kept"
    expected = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

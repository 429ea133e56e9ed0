# SPDX-License-Identifier: Apache-2.0
"""The edge network: its layers by hand, what learns, its views, and that it learns edges."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from helpers import refused
from PIL import Image

from clims.affinity import affinities, pair_losses
from clims.config import check_edges
from clims.edges import EdgeMapper


@pytest.fixture
def edge_cfg(stage0_cfg, tmp_path):
    (tmp_path / "labels" / "SegmentationClass").mkdir(parents=True)
    stage0_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "EdgeNetwork", "MODEL.CNN.STRIDE", 16),
            *("INPUT.DATASET_MAPPER_NAME", "EdgeMapper", "MODEL.CLIMS.EDGES.RADIUS", 4),
            *("MODEL.CLIMS.EDGES.LABELS", str(tmp_path / "labels")),
        ]
    )
    return stage0_cfg


@pytest.fixture
def model(edge_cfg):
    torch.manual_seed(0)
    return build_model(edge_cfg)


def test_layers_by_hand(model, stage0_cfg):
    images = torch.randn(2, 3, 70, 50)
    trunk = timm.create_model("test_resnet", features_only=True)
    trunk.load_state_dict(model.backbone.state_dict())
    trunk.layer4[0].conv1.stride = (1, 1)
    trunk.layer4[0].downsample[0] = torch.nn.Identity()
    with torch.no_grad():
        levels = list(trunk.eval()(images))
        levels[0] = trunk.maxpool(levels[0])
        seen = []
        for level, stride, branch in zip(levels, (4, 4, 8, 16, 16), model.branches, strict=True):
            conv, norm = branch
            x = F.group_norm(F.conv2d(level, conv.weight), 4, norm.weight, norm.bias)
            if stride > 4:
                x = F.interpolate(x, scale_factor=stride / 4, mode="bilinear", align_corners=False)
            seen.append(x[..., :18, :13].clamp(min=0))
        assert all(x.shape == (2, 32, 18, 13) for x in seen)
        expected = F.conv2d(torch.cat(seen, 1), model.predictor.weight, model.predictor.bias)
        torch.testing.assert_close(model.eval().encode(images)["edges"], expected)


def test_edges_of_an_image_and_its_flipped_copy(model):
    """Padded to the size of the training's views, as group norms see the padding."""
    image = torch.rand(1, 3, 50, 44) * 255
    model.eval()
    normalized = (image - model.pixel_mean) / model.pixel_std
    logits = [
        model.encode(F.pad(view, (0, 20, 0, 14)))["edges"][0, 0, :13, :11].detach()
        for view in (normalized, normalized.flip(-1))
    ]
    expected = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()
    torch.testing.assert_close(model.edges(image), expected)
    assert model.edges(torch.rand(1, 3, 101, 80)).shape == (26, 20)


def make_record(seed):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 255
    labels = torch.zeros(16, 16, dtype=torch.uint8)
    labels[:, 8:] = 1
    labels[:3] = 255
    return {
        "image": image.byte(),
        "label_maps": labels,
    }


def test_the_loss_and_what_learns(model):
    records = [make_record(0), make_record(1)]
    model.train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    loss = model(records)["loss_edges"]
    images = torch.stack([record["image"] for record in records]).float()
    labels = torch.stack([record["label_maps"] for record in records])
    edges = model.encode(model.normalize(images))["edges"][:, 0].sigmoid()
    torch.testing.assert_close(loss, pair_losses(affinities(edges, 4), labels, 4, 11))
    loss.backward()
    assert all(torch.equal(before[k], v) for k, v in model.backbone.state_dict().items())
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    assert not any(p.requires_grad for p in model.backbone.parameters())
    with pytest.raises(ValueError, match="no maps"):
        model.maps("cam", {})


def test_it_learns_where_labels_change(model):
    record = make_record(0)
    record["image"][:, :, 32:] //= 8
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(80):
        loss = model.train()([record])["loss_edges"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    edges = model.eval().edges(record["image"][None].float())
    assert edges[4:, 6:10].amax(dim=1).mean() > 2 * edges[4:, :5].mean()


def test_views_of_image_and_labels_show_the_same(edge_cfg, tmp_path):
    """Labels that can be read off the image: they must move with it."""
    label_map = np.zeros((60, 90), np.uint8)
    label_map[20:45, 10:50] = 3
    label_map[5:15, 60:80] = 7
    Image.fromarray(np.repeat(40 + 20 * label_map[..., None], 3, 2)).save(tmp_path / "7.png")
    Image.fromarray(label_map).save(tmp_path / "labels" / "SegmentationClass" / "7.png")
    edge_cfg.merge_from_list(["INPUT.PHOTOMETRIC", False, "INPUT.RESCALE_RANGE", (0.5, 1.5)])
    edge_cfg.DATASETS.TRAIN = ()  # whose images have no label map here
    mapper = EdgeMapper(edge_cfg, is_train=True)
    record = {"file_name": str(tmp_path / "7.png"), "image_labels": [2, 6]}
    right = total = padded = 0
    for seed in range(20):
        seed_all_rng(seed)
        out = mapper(record)
        assert out["image"].shape == (3, 64, 64) and out["label_maps"].shape == (16, 16)
        seen = out["image"][0, 2::4, 2::4].float()
        y0, y1, x0, x1 = out["image_box"].tolist()
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        inside = inside[2::4, 2::4]
        assert (out["label_maps"][~inside] == 255).all()
        assert (out["label_maps"][inside] != 255).all()
        right += ((seen - 40) / 20).round()[inside].eq(out["label_maps"][inside]).sum().item()
        total += inside.sum().item()
        padded += (~inside).any().item()
    assert padded > 5 and right > 0.95 * total


@pytest.mark.parametrize(("crop", "radius"), [((64, 72), 10), ((36, 96), 10), ((64, 64), 9)])
def test_crops_without_a_pair_of_neighbors(edge_cfg, crop, radius):
    edge_cfg.merge_from_list(["INPUT.CROP.SIZE", crop, "MODEL.CLIMS.EDGES.RADIUS", radius])
    with refused("MODEL.CLIMS.EDGES.RADIUS"):
        check_edges(edge_cfg)
    edge_cfg.INPUT.CROP.SIZE = [4 * radius, 8 * radius]
    check_edges(edge_cfg)


def test_labels_that_are_missing(edge_cfg, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "7.png")
    edge_cfg.DATASETS.TRAIN = ()
    mapper = EdgeMapper(edge_cfg, is_train=True)
    with refused("7.png"):
        mapper({"file_name": str(tmp_path / "7.png"), "image_labels": [1]})
    edge_cfg.MODEL.CLIMS.EDGES.LABELS = str(tmp_path / "gone")
    with refused("MODEL.CLIMS.EDGES.LABELS", "gone"):
        EdgeMapper(edge_cfg, is_train=True)
    EdgeMapper(edge_cfg, is_train=False)

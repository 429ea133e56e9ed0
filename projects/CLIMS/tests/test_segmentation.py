# SPDX-License-Identifier: Apache-2.0
"""The last stage: its loss by hand, label maps that move with the image, and its command."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from helpers import refused
from PIL import Image

from clims.label_maps import LabelMapMapper
from dalnet.config import load_config
from dalnet.data.image_io import read_mask, write_mask
from dalnet.engine import setup
from dalnet.engine.train import argument_parser, main
from dalnet.prediction import Predictor


@pytest.fixture
def labels(tmp_path, toy_split):
    """A folder of label maps: the masks, with unsure pixels below."""
    for record in DatasetCatalog.get(toy_split):
        label_map = read_mask(record["sem_seg_file_name"], (96, 96), 11, 255)
        label_map[80:] = 255
        write_mask(
            tmp_path / "labels" / "SegmentationClass" / f"{record['image_id']}.png", label_map
        )
    return tmp_path / "labels"


@pytest.fixture
def cfg(stage0_cfg, tmp_path):
    (tmp_path / "labels" / "SegmentationClass").mkdir(parents=True)
    stage0_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "LabelMapSegmentor", "MODEL.SEM_SEG_HEAD.NORM", "BN"),
            *("MODEL.CNN.NORM", "BN", "MODEL.CLIMS.SEGMENTATION.DILATIONS", (1, 2, 3)),
            *("INPUT.DATASET_MAPPER_NAME", "LabelMapMapper"),
            *("MODEL.CLIMS.SEGMENTATION.LABELS", str(tmp_path / "labels")),
        ]
    )
    return stage0_cfg


def make_records(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(count, 3, 64, 64, generator=generator) * 255).byte()
    label_maps = torch.randint(0, 11, (count, 64, 64), generator=generator).byte()
    label_maps[:, :9] = 255
    return [
        {"image": image, "label_maps": label_map}
        for image, label_map in zip(images, label_maps, strict=True)
    ]


def test_the_loss_by_hand(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.head.predictor.weight.data.normal_()
    model.head.decoder["map"]["project_conv"].dropout = 0.0
    records = make_records()
    images = torch.stack([record["image"] for record in records]).float()
    features = model.backbone(model.normalize(images))
    assert {k: v.shape[-1] for k, v in features.items()} == {"stage1": 16, "map": 8}
    logits = F.interpolate(model.head.layers(features), (64, 64), mode="bilinear")
    label_maps = torch.stack([record["label_maps"] for record in records]).long()
    scores = logits.log_softmax(1)
    parts = [
        -scores.gather(1, label_maps.clamp(max=10)[:, None])[:, 0][region].mean()
        for region in (label_maps == 0, (label_maps > 0) & (label_maps < 255))
    ]
    torch.testing.assert_close(model(records)["loss_seg"], sum(parts) / 2, rtol=1e-4, atol=1e-5)


def test_everything_learns_but_the_stem(cfg):
    model = build_model(cfg).train()
    model.head.predictor.weight.data.normal_()
    model(make_records())["loss_seg"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    stem = ("backbone.cnn.conv1.", "backbone.cnn.bn1.")
    assert without == {name for name, _ in model.named_parameters() if name.startswith(stem)}


def test_views_of_image_and_label_map_show_the_same(cfg, tmp_path):
    """Labels that can be read off the image: they must move with it."""
    label_map = np.zeros((60, 90), np.uint8)
    label_map[20:45, 10:50] = 3
    Image.fromarray(np.repeat(40 + 40 * label_map[..., None], 3, 2)).save(tmp_path / "7.png")
    write_mask(tmp_path / "labels" / "SegmentationClass" / "7.png", label_map)
    cfg.merge_from_list(["INPUT.PHOTOMETRIC", False, "INPUT.RESCALE_RANGE", (0.5, 1.5)])
    cfg.DATASETS.TRAIN = ()  # whose images have no label map here
    mapper = LabelMapMapper(cfg, is_train=True)
    for seed in range(10):
        seed_all_rng(seed)
        out = mapper({"file_name": str(tmp_path / "7.png"), "image_labels": [2]})
        assert out["image"].shape == (3, 64, 64) and out["label_maps"].shape == (64, 64)
        y0, y1, x0, x1 = out["image_box"].tolist()
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert torch.equal(out["label_maps"] == 255, ~inside)
        read = ((out["image"][0].float() - 40) / 40).round()
        assert read[inside].eq(out["label_maps"][inside]).float().mean() > 0.95


def test_image_and_label_map_of_a_sub_folder_are_resized_alike(cfg, tmp_path):
    label_map = np.zeros((60, 90), np.uint8)
    label_map[:, 30:60] = 3
    (tmp_path / "images/a").mkdir(parents=True)
    path = tmp_path / "images/a/7.png"
    Image.fromarray(np.repeat(40 + 40 * label_map[..., None], 3, 2)).save(path)
    write_mask(tmp_path / "labels/SegmentationClass/a/7.png", label_map)
    cfg.merge_from_list(["INPUT.PHOTOMETRIC", False, "INPUT.RESCALE_RANGE", (1.0, 1.0)])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (30,), "DATASETS.TRAIN", ()])
    out = LabelMapMapper(cfg, is_train=True)(
        {"file_name": str(path), "image_id": "a/7.png", "image_labels": [2]}
    )
    y0, y1, x0, x1 = out["image_box"].tolist()
    assert (y1 - y0, x1 - x0) == (30, 45) and out["image_id"] == "a/7.png"
    read = ((out["image"][0, y0:y1, x0:x1].float() - 40) / 40).round()
    assert read.eq(out["label_maps"][y0:y1, x0:x1]).float().mean() > 0.9


def test_one_command_trains_it_and_it_predicts_every_class(cfg, labels, tmp_path, toy_split):
    cfg.merge_from_list(["DATASETS.TRAIN", (toy_split,), "DATASETS.TEST", (toy_split,)])
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(cfg.dump())
    results = main(argument_parser().parse_args(["--config-file", str(tmp_path / "run.yaml")]))
    assert set(results) == {"sem_seg"}
    written = json.loads((tmp_path / "run/evaluation" / toy_split / "results.json").read_text())
    assert written["system"] == "LabelMapSegmentor"
    prediction = Predictor(tmp_path / "run")(DatasetCatalog.get(toy_split)[0]["file_name"])
    assert prediction.scores.shape == (11, 96, 96)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.CLIMS.SEGMENTATION.DILATIONS", "(6, 12)"),
        ("MODEL.SEM_SEG_HEAD.NORM", "nothing"),
        ("INPUT.DATASET_MAPPER_NAME", "SingleViewMapper"),
        ("MODEL.BACKBONE.NAME", "TimmViT"),
    ],
)
def test_values_that_do_not_fit(cfg, tmp_path, key, value):
    (tmp_path / "run.yaml").write_text(cfg.dump())
    with refused(key):
        setup(load_config(str(tmp_path / "run.yaml"), [key, value]))


def test_labels_that_are_missing(cfg, tmp_path):
    cfg.MODEL.CLIMS.SEGMENTATION.LABELS = str(tmp_path / "gone")
    with refused("MODEL.CLIMS.SEGMENTATION.LABELS", "gone"):
        LabelMapMapper(cfg, is_train=True)


def test_label_maps_that_are_missing(cfg, labels, toy_split):
    cfg.DATASETS.TRAIN = (toy_split,)
    path = labels / "SegmentationClass"
    (path / "3.png").unlink()
    with refused(path, "1 of 8 training images have no label map in it, as 3"):
        LabelMapMapper(cfg, is_train=True)

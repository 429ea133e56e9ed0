# SPDX-License-Identifier: Apache-2.0
"""Which images figures show, and what models say about them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image
from torch import nn

from dalnet.data.datasets.catalog import register
from dalnet.engine.trainer import load_model
from dalnet.figures.images import choose_images, predict_images
from dalnet.modeling.multi_scale import CAMSettings

SPLIT = "voc_2012_sem_seg_val"
CAT, DOG = 7, 11  # classes 0..C-1


def names(records):
    return [Path(record["file_name"]).stem for record in records]


def test_named_images_come_in_the_order_of_their_names_on_the_command_line(voc_tree):
    images = ("2007_000003", "2007_000000", "2007_000003")
    assert names(choose_images(SPLIT, images, 4)) == ["2007_000003", "2007_000000"]


def test_draw_is_the_same_for_a_seed_and_keeps_to_what_suits(voc_tree):
    draws = [names(choose_images(SPLIT, (), 2, seed)) for seed in range(20)]
    assert draws == [names(choose_images(SPLIT, (), 2, seed)) for seed in range(20)]
    assert len(set(map(tuple, draws))) > 1
    assert all(len(set(draw)) == 2 and draw == sorted(draw) for draw in draws)
    dogs = choose_images(SPLIT, (), 2, class_name="dog")
    assert names(dogs) == ["2007_000000", "2007_000002"]


def test_images_of_one_name_in_two_folders_are_both_there():
    paths = ["cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg"]
    records = [{"file_name": f"/i/{p}", "image_id": p, "image_labels": [0]} for p in paths]
    register("nested", lambda: records, ["cat"])
    assert choose_images("nested", (), 4) == records
    (one,) = choose_images("nested", ("dog/0",), 1)
    assert one["image_id"] == "dog/0.jpg"
    with refused("images", "as cat/0"):
        choose_images("nested", ("0",), 1)


@pytest.mark.parametrize(
    ("choice", "where", "word"),
    [
        ({"images": ("2007_000001", "nope")}, "images", "'nope'"),
        ({"images": ("2007_000001", "nope")}, "images", "as 2007_000000"),
        ({"images": ("2007_000001",), "class_name": "dog"}, "images", "2007_000001"),
        ({"class_name": "background"}, "class_name", "'background'"),
        ({"count": 3, "class_name": "dog"}, "count", "4 images, of which 2"),
        ({"count": 0}, "count", "0"),
        ({"count": 2, "tags": '{"2007_000001": ["cat"]}'}, "count", "4 images, of which 1"),
    ],
)
def test_images_that_cannot_be_had_are_named(voc_tree, choice, where, word):
    if "tags" in choice:
        (voc_tree.voc / "image_tags.json").write_text(choice["tags"])
    wanted = {"images": (), "count": 1} | {k: v for k, v in choice.items() if k != "tags"}
    with refused(where, word):
        choose_images(SPLIT, **wanted)
    assert len(choose_images(SPLIT, (), 4, needs_labels=False)) == 4


class LeftHalf(nn.Module):
    """A system without a head, or with one: the first class of the labels is at the left."""

    def __init__(self, *sources):
        super().__init__()
        self.sources = sources
        self.class_names = MetadataCatalog.get(SPLIT).stuff_classes
        self.cam_settings = CAMSettings()

    def forward(self, inputs):
        assert not self.training
        (item,) = inputs
        left = torch.zeros(item["height"], item["width"])
        left[:, : item["width"] // 2] = 1.0
        output = {}
        if "sem_seg" in self.sources:
            assert self.sources == ("sem_seg",) or "image_labels" not in item
            output["sem_seg"] = torch.eye(21)[DOG + 1][:, None, None] * left
        if "image_labels" in item and item["image_labels"].any():
            output["cam"] = item["image_labels"][:, None, None] * 0.8 * left
        return [output]


def test_system_without_a_head_labels_by_its_cams(voc_model):
    cfg, model = voc_model.cfg, LeftHalf("cam").train()
    records = DatasetCatalog.get(SPLIT)[:2]
    results = list(predict_images(cfg, model, SPLIT, records, needs_cams=False))
    assert model.training
    for result, label in zip(results, (DOG, CAT), strict=True):
        assert result.image_classes == (label,)
        assert "pseudo label" not in result.label_maps
        np.testing.assert_allclose(result.cams[label][:, :25], 0.8, rtol=1e-6)
        assert (result.label_maps["prediction"][:, :25] == label + 1).all()
        assert not result.label_maps["prediction"][:, 25:].any()
    records[0].update(image_labels=[], unknown_labels=[0, 1, 2])
    (result,) = predict_images(cfg, model, SPLIT, records[:1])
    assert (result.label_maps.keys(), result.cams) == ({"truth"}, {})


def test_system_with_a_head_is_given_labels_only_for_cams(voc_model):
    records = DatasetCatalog.get(SPLIT)[:1]
    model = LeftHalf("sem_seg", "cam")
    (result,) = predict_images(voc_model.cfg, model, SPLIT, records, needs_cams=False)
    assert (result.label_maps["prediction"][:, :25] == DOG + 1).all()
    assert not result.cams
    (result,) = predict_images(voc_model.cfg, LeftHalf("sem_seg"), SPLIT, records)
    assert list(result.cams) == [DOG]


def test_results_are_those_of_the_model(voc_model):
    voc_model.cfg.MODEL.WEIGHTS = str(voc_model.weights)
    voc_model.cfg.MODEL.CLIP.SOURCE = "checkpoint"
    voc_model.cfg.TEST.EVAL_CAM = True
    records = DatasetCatalog.get(SPLIT)
    results = list(predict_images(voc_model.cfg, load_model(voc_model.cfg), SPLIT, records))
    assert [result.name for result in results] == names(records)
    for result, record in zip(results, records, strict=True):
        np.testing.assert_array_equal(result.image, np.asarray(Image.open(record["file_name"])))
        assert list(result.label_maps) == ["truth", "pseudo label", "prediction"]
        assert all(label_map.shape == (40, 50) for label_map in result.label_maps.values())
        assert list(result.cams) == list(result.image_classes) == record["image_labels"]


def test_wrong_mask_is_named(voc_model):
    records = DatasetCatalog.get(SPLIT)[:1]
    Image.new("L", (50, 41)).save(records[0]["sem_seg_file_name"])
    with refused("2007_000000.png"):
        list(predict_images(voc_model.cfg, LeftHalf("cam"), SPLIT, records))

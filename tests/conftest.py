# SPDX-License-Identifier: Apache-2.0
"""What tests of whole programs share: a data set on disk, a model, an interruption."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from helpers import make_model, write_voc_tree
from PIL import Image

from dalnet.checkpoint import Checkpointer, CheckpointInfo
from dalnet.config import fill_class_names, load_config
from dalnet.data.datasets.catalog import register

SPLIT_CLASSES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class VOCTree:
    """Where the images and masks, the config and its OUTPUT_DIR are."""

    voc: Path
    config: Path
    output: Path


@pytest.fixture
def voc_tree(tmp_path, monkeypatch, tiny_cfg):
    """Four images in VOC's layout and a config that trains the tiny network on them."""
    voc = tmp_path / "data" / "VOC2012"
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(4)]
    masks = np.zeros((4, 40, 50), np.uint8)
    masks[::2, 10:30, 10:30], masks[1::2, 10:30, 10:30] = 12, 8
    splits = ("train", "train_aug", "val")
    write_voc_tree(voc, images, masks, 2 * [["dog"], ["cat"]], splits, "2007_{:06d}.jpg")
    (voc / "SegmentationClassAug").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))

    cfg = tiny_cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("voc_2012_sem_seg_train_aug",), ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 21
    cfg.MODEL.WEIGHTS = ""
    # Other processes do not know the system that some tests register in this one.
    cfg.MODEL.pop("TINY", None)
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    return VOCTree(voc, config, tmp_path / "output")


@dataclass(frozen=True)
class VOCModel:
    """A config, not frozen, and a checkpoint of it."""

    cfg: CfgNode
    weights: Path


@pytest.fixture
def voc_model(voc_tree):
    """Fresh weights for the config of ``voc_tree``, in a folder of a training."""
    cfg = load_config(str(voc_tree.config))
    torch.manual_seed(0)
    folder = voc_tree.output / "run"
    info = CheckpointInfo.of_training(cfg)
    Checkpointer(build_model(cfg), str(folder), info=info).save("model")
    return VOCModel(cfg, folder / "model.pth")


@dataclass(frozen=True)
class Split:
    """Its name, and its records, which a test may change."""

    name: str
    records: list[dict[str, Any]]


@pytest.fixture
def split(tmp_path):
    """Images of 40 x 50 pixels with a cat or a dog, each labeled so; no owl."""
    folder, rng, records = tmp_path / "images", np.random.default_rng(0), []
    folder.mkdir()
    for index in range(4):
        coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((50, 40)).save(folder / f"{index}.jpg")
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 10:30] = 1 + index % 2
        mask[38:] = 255
        Image.fromarray(mask).save(folder / f"{index}.png")
        records.append(
            {
                "file_name": str(folder / f"{index}.jpg"),
                "image_id": index,
                "sem_seg_file_name": str(folder / f"{index}.png"),
                "image_labels": [index % 2],
            }
        )
    name = f"split_{tmp_path.name}"
    register(name, lambda: records, SPLIT_CLASSES)
    yield Split(name, records)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@dataclass(frozen=True)
class Checkpoint:
    """A config, not frozen, and fresh weights of it in a folder of a training."""

    cfg: CfgNode
    weights: Path

    @property
    def results(self) -> Path:
        """What training's evaluation writes."""
        return Path(self.cfg.OUTPUT_DIR, "evaluation", self.cfg.DATASETS.TEST[0], "results.json")


@pytest.fixture
def checkpoint(split, tiny_cfg, tmp_path):
    """A model whose CAMs have regions, for the classes of ``split``."""
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = (split.name,)
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1 + len(SPLIT_CLASSES)
    fill_class_names(tiny_cfg)
    model, folder = make_model(tiny_cfg), tmp_path / "run"
    info = CheckpointInfo.of_training(tiny_cfg)
    Checkpointer(model, str(folder), info=info).save("model_final")
    tiny_cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    tiny_cfg.MODEL.CLIP.SOURCE = "checkpoint"
    return Checkpoint(tiny_cfg, folder / "model_final.pth")


@pytest.fixture
def toy_checkpoint(tiny_cfg, tmp_path):
    """A checkpoint of a tiny network whose labels vary."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    # What its training started from is not here.
    tiny_cfg.MODEL.VIT.WEIGHTS, tiny_cfg.MODEL.CLIP.SOURCE = "timm", "tower"
    folder = tmp_path / "run"
    Checkpointer(model, str(folder), info=CheckpointInfo.of_training(tiny_cfg)).save("model_final")
    return folder / "model_final.pth"


@pytest.fixture
def make_image():
    """Makes a smooth image, uint8 [H, W, 3]."""

    def make(height, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        large = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        return (255 * large[0]).byte().permute(1, 2, 0).numpy().copy()

    return make

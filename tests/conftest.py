# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures that hold for all tests."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from PIL import Image

import dalnet.data  # noqa: F401  registers the data sets
import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import add_dalnet_config
from dalnet.engine import DALNetTrainer
from dalnet.engine.checkpointer import DALNetCheckpointer

CLASSES = ["cat", "dog"]

# The tensors are small: threads would only wait for each other, and sums keep one order.
torch.set_num_threads(1)


@pytest.fixture
def tiny_cfg(tmp_path) -> CfgNode:
    """The whole method on the CPU, for the toy classes, in a network of two narrow blocks."""
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_list(
        f"""
        MODEL.DEVICE cpu DATASETS.TRAIN ("toy_train",) DATASETS.TEST ("toy_val",)
        MODEL.VIT.NAME vit_tiny_patch16_224 MODEL.VIT.WEIGHTS "" MODEL.VIT.IMG_SIZE 32
        MODEL.VIT.PATCH_SIZE 8 MODEL.VIT.EMBED_DIM 24 MODEL.VIT.DEPTH 2 MODEL.VIT.NUM_HEADS 2
        MODEL.VIT.INTERMEDIATE_BLOCK 1 MODEL.SEM_SEG_HEAD.NUM_CLASSES 11
        MODEL.SEM_SEG_HEAD.CONVS_DIM 16 MODEL.SEM_SEG_HEAD.DILATION 1
        MODEL.CLIP.SOURCE untrained MODEL.CLIP.EMBED_DIM 32 MODEL.DALNET.PROJECTION_DIM 16
        MODEL.DALNET.SEG_START_ITER 0 MODEL.DALNET.CAM.SCALES (1.0,0.5)
        MODEL.DALNET.PAR.NUM_ITERS 2 MODEL.DALNET.PAR.DILATIONS (1,2)
        INPUT.CROP.SIZE [32,32] INPUT.MULTI_CROP.LOCAL_VIEWS 2 INPUT.MULTI_CROP.LOCAL_SIZE 16
        INPUT.MIN_SIZE_TEST 32 DATALOADER.NUM_WORKERS 0
        SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 OUTPUT_DIR {tmp_path / "output"}
        """.split()
    )
    return cfg


@dataclass(frozen=True)
class VOCTree:
    """Where the photographs and masks, the config and its OUTPUT_DIR are."""

    voc: Path
    config: Path
    output: Path


@pytest.fixture
def voc_tree(tmp_path, monkeypatch, tiny_cfg):
    """Four photographs in VOC's layout and a config that trains the tiny network on them."""
    voc = tmp_path / "data" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    rng = np.random.default_rng(0)
    ids = [f"2007_{i:06d}" for i in range(4)]
    for i, image_id in enumerate(ids):
        photo = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(photo).save(voc / "JPEGImages" / f"{image_id}.jpg")
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 10:30] = 8 if i % 2 else 12
        Image.fromarray(mask).save(voc / "SegmentationClass" / f"{image_id}.png")
    tags = {image_id: [CLASSES[(i + 1) % 2]] for i, image_id in enumerate(ids)}
    (voc / "image_tags.json").write_text(json.dumps(tags))
    for name in ("train", "train_aug", "val"):
        (voc / "ImageSets/Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))

    cfg = tiny_cfg.clone()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("voc_2012_sem_seg_train_aug",), ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 21
    cfg.MODEL.WEIGHTS = ""
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
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_file(str(voc_tree.config))
    torch.manual_seed(0)
    folder = voc_tree.output / "run"
    DALNetCheckpointer(DALNetTrainer.build_model(cfg), str(folder)).save("model")
    return VOCModel(cfg, folder / "model.pth")

# SPDX-License-Identifier: Apache-2.0
"""A registered split of four images with masks and labels, and a checkpoint for its classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import make_model
from PIL import Image

from dalnet.checkpoint import Checkpointer, CheckpointInfo
from dalnet.config import fill_class_names
from dalnet.data.datasets.catalog import register

CLASSES = ("cat", "dog", "owl")


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
    register(name, lambda: records, CLASSES)
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
    tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 1 + len(CLASSES)
    fill_class_names(tiny_cfg)
    model, folder = make_model(tiny_cfg), tmp_path / "run"
    info = CheckpointInfo.of_training(tiny_cfg)
    Checkpointer(model, str(folder), info=info).save("model_final")
    tiny_cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    tiny_cfg.MODEL.CLIP.SOURCE = "checkpoint"
    return Checkpoint(tiny_cfg, folder / "model_final.pth")

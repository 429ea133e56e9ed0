# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures that hold for all tests, those of the projects included."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

import dalnet.data  # noqa: F401  registers the data sets
import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import new_config

# The tensors are small: threads would only wait for each other, and sums keep one order.
torch.set_num_threads(1)


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> CfgNode:
    """The whole method on the CPU, for the toy classes, in a network of two narrow blocks."""
    cfg = new_config()
    cfg.merge_from_list(
        f"""
        MODEL.DEVICE cpu DATASETS.TRAIN ("toy_train",) DATASETS.TEST ("toy_val",)
        MODEL.VIT.NAME vit_tiny_patch16_224 MODEL.VIT.WEIGHTS "" MODEL.VIT.IMG_SIZE 32
        MODEL.VIT.PATCH_SIZE 8 MODEL.VIT.EMBED_DIM 24 MODEL.VIT.DEPTH 2 MODEL.VIT.NUM_HEADS 2
        MODEL.VIT.INTERMEDIATE_BLOCK 1 MODEL.SEM_SEG_HEAD.NUM_CLASSES 11
        MODEL.SEM_SEG_HEAD.CONVS_DIM 16 MODEL.SEM_SEG_HEAD.DILATION 1
        MODEL.CLIP.SOURCE untrained MODEL.CLIP.EMBED_DIM 32 MODEL.DALNET.PROJECTION_DIM 16
        MODEL.DALNET.SEG_START_ITER 0 MODEL.CAM.SCALES (1.0,0.5)
        MODEL.PAR.NUM_ITERS 2 MODEL.PAR.DILATIONS (1,2)
        INPUT.CROP.SIZE [32,32] INPUT.MULTI_CROP.LOCAL_VIEWS 2 INPUT.MULTI_CROP.LOCAL_SIZE 16
        INPUT.MIN_SIZE_TEST 32 DATALOADER.NUM_WORKERS 0
        SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 OUTPUT_DIR {tmp_path / "output"}
        """.split()
    )
    return cfg

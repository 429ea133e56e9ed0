# SPDX-License-Identifier: Apache-2.0
"""Two ranks share a split and count every image once."""

import json
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from detectron2.config import get_cfg

from dalnet.config import add_dalnet_config
from dalnet.engine.grid_evaluation import GridJob, evaluate_grid

SPLIT = "voc_2012_sem_seg_val"


def run_rank(rank, world_size, config, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store{world_size}"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world_size)
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_file(config)
    output = Path(folder, f"ranks{world_size}")
    job = GridJob(SPLIT, "seg,cam", "ss", output, output / "dump", 1)
    result = evaluate_grid(cfg, job)
    assert (result is None) == (rank != 0)
    torch.distributed.destroy_process_group()


def test_ranks_share_the_images(voc_model, tmp_path):
    cfg = voc_model.cfg
    cfg.MODEL.WEIGHTS = str(voc_model.weights)
    config = tmp_path / "evaluated.yaml"
    config.write_text(cfg.dump())

    results = []
    for world_size in (1, 2):
        arguments = (world_size, str(config), str(tmp_path))
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=world_size)
        output = tmp_path / f"ranks{world_size}"
        results.append(json.loads((output / "results.json").read_text()))
        assert len(list((output / "dump/seg/ss/SegmentationClass").iterdir())) == 4
        listed = (output / "dump/cam/ss/ImageSets/Segmentation" / f"{SPLIT}.txt").read_text()
        assert len(listed.split()) == 4
    assert results[0] == results[1]
    assert results[0]["num_images"] == 4

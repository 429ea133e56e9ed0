# SPDX-License-Identifier: Apache-2.0
"""Two ranks share a split and count every image once."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from dalnet.data.datasets.catalog import register
from dalnet.evaluation.run import evaluate


def run_rank(rank, world_size, cfg, split, records, folder):
    torch.set_num_threads(1)
    register(split, lambda: records, ("cat", "dog", "owl"))
    store = f"file://{folder}/store{world_size}"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world_size)
    output = Path(folder, f"ranks{world_size}")
    options = {"sources": ["sem_seg", "cam"], "protocols": ["ss"], "dump": output / "dump"}
    result = evaluate(cfg, split, output=output, **options)
    assert (result is None) == (rank != 0)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_the_images(checkpoint, split, tmp_path):
    results = []
    for world_size in (1, 2):
        arguments = (world_size, checkpoint.cfg, split.name, split.records, str(tmp_path))
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=world_size)
        output = tmp_path / f"ranks{world_size}"
        results.append(json.loads((output / "results.json").read_text()))
        assert len(list((output / "dump/sem_seg/ss/SegmentationClass").iterdir())) == 4
        listed = output / "dump/cam/ss/ImageSets/Segmentation" / f"{split.name}.txt"
        assert len(listed.read_text().split()) == 4
    assert results[0] == results[1]
    assert results[0]["num_images"] == 4

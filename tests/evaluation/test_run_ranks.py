# SPDX-License-Identifier: Apache-2.0
"""Two ranks share a split and count every image once."""

import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from detectron2.utils import comm

from dalnet.data.datasets.catalog import register
from dalnet.evaluation import ranks
from dalnet.evaluation.alignment import evaluate_alignment
from dalnet.evaluation.run import evaluate


def gather_slowly(read, value):
    """As a busy main rank does, which has not read yet what the others have sent."""
    values = comm.gather(value)
    if values:
        time.sleep(2)
        read.touch()
    return values


def run_rank(rank, world_size, cfg, split, records, folder):
    torch.set_num_threads(1)
    read = Path(folder, f"read{world_size}")
    ranks.comm = SimpleNamespace(gather=partial(gather_slowly, read), synchronize=comm.synchronize)
    register(split, lambda: records, ("cat", "dog", "owl"))
    store = f"file://{folder}/store{world_size}"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=world_size)
    output = Path(folder, f"ranks{world_size}")
    options = {"sources": ["sem_seg", "cam"], "protocols": ["ss"], "dump": output / "dump"}
    result = evaluate(cfg, split, output=output, **options)
    assert read.exists(), "a rank has gone before the main rank had read its counts"
    alignment = evaluate_alignment(cfg, split, output)
    assert (result is None) == (alignment is None) == (rank != 0)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_the_images(checkpoint, split, tmp_path):
    results, alignments = [], []
    for world_size in (1, 2):
        arguments = (world_size, checkpoint.cfg, split.name, split.records, str(tmp_path))
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=world_size)
        output = tmp_path / f"ranks{world_size}"
        results.append(json.loads((output / "results.json").read_text()))
        assert len(list((output / "dump/sem_seg/ss/SegmentationClass").iterdir())) == 4
        listed = output / "dump/cam/ss/ImageSets/Segmentation" / f"{split.name}.txt"
        assert len(listed.read_text().split()) == 4
        alignments.append(json.loads((output / "alignment.json").read_text()))
    assert results[0] == results[1]
    assert results[0]["num_images"] == alignments[1]["num_images"] == 4
    # The means are of sums in another order.
    assert alignments[0]["quality"] == pytest.approx(alignments[1]["quality"])

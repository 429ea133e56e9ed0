# SPDX-License-Identifier: Apache-2.0
"""The output folder and the logs of a command."""

import logging
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from helpers import refused

from dalnet.engine import setup
from dalnet.engine.setup import _check_processes, _use_gpu


@pytest.mark.parametrize("name", ["detectron2.data", "fvcore.common", "dalnet.report"])
def test_a_second_setup_in_one_process_logs_each_line_once(checkpoint, tmp_path, capsys, name):
    for folder in ("training", "page", "page"):
        cfg = checkpoint.cfg.clone()
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        setup(cfg, eval_only=True)
    logging.getLogger(name).info("one line")
    assert capsys.readouterr().out.count("one line") == 1
    logs = [Path(tmp_path, folder, "log.txt").read_text() for folder in ("training", "page")]
    assert [log.count("one line") for log in logs] == [0, 1]


@pytest.mark.parametrize(
    ("backend", "device"), [("gloo", "cuda"), ("nccl", "cpu"), ("nccl", "cuda:0")]
)
def test_a_device_that_several_processes_cannot_have_is_refused(
    checkpoint, monkeypatch, backend, device
):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    cfg = checkpoint.cfg
    for eval_only in (False, True):
        cfg.MODEL.DEVICE = device
        with refused("MODEL.DEVICE", device):
            _check_processes(cfg, eval_only)
        cfg.MODEL.DEVICE = {"gloo": "cpu", "nccl": "cuda"}[backend]
        _check_processes(cfg, eval_only)


def test_a_gpu_that_is_named_by_its_number_is_the_current_one(checkpoint, monkeypatch):
    """Only the random numbers of the current GPU are saved."""
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device in ("cpu", "cuda", "cuda:1"):
        checkpoint.cfg.MODEL.DEVICE = device
        _use_gpu(checkpoint.cfg)
    assert current == [torch.device("cuda:1")]

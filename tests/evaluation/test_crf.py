# SPDX-License-Identifier: Apache-2.0
"""CRFs in other processes: same labels, and none is waited for when one of them is killed."""

import multiprocessing
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused

from dalnet.evaluation import crf
from dalnet.evaluation.crf import CRFPool, CRFTask, choose_backend
from dalnet.layers import dense_crf

PARAMETERS = {
    "iters": 3,
    "pos_w": 1.0,
    "pos_xy_std": 1.0,
    "bi_w": 4.0,
    "bi_xy_std": 20.0,
    "bi_rgb_std": 8.0,
}


def make_task(seed, size=(24, 31), channels=3):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
    image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[: size[0], : size[1]]
    probs = rng.dirichlet(np.ones(channels), size).transpose(2, 0, 1)
    return CRFTask(image, probs.astype(np.float32), (0, 4, 9)[:channels])


def labels_by_hand(task):
    images, probs = torch.from_numpy(task.image)[None], torch.from_numpy(task.probs)[None]
    return np.array(task.labels)[dense_crf(images, probs, **PARAMETERS)[0].argmax(0).numpy()]


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_labels_are_those_of_the_layer(backend):
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    tasks = [make_task(0), make_task(1), make_task(6, size=(1, 1)), make_task(7, channels=1)]
    with CRFPool(2, PARAMETERS, backend) as pool:
        results = [future.result() for future in [pool.refine(task) for task in tasks]]
    for task, labels in zip(tasks, results, strict=True):
        assert (labels.shape, labels.dtype) == (task.image.shape[:2], np.uint8)
        assert (labels == labels_by_hand(task)).mean() > 0.99
    assert (results[0] != np.array(tasks[0].labels)[tasks[0].probs.argmax(0)]).any()


def test_a_dead_worker_leaves_nobody_waiting():
    with CRFPool(1, PARAMETERS, "torch") as pool:
        pool.refine(make_task(0)).result()
        for pid in list(pool._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            for seed in range(50):
                pool.refine(make_task(seed)).result()


def killed_parent(pids):
    with CRFPool(1, PARAMETERS, "torch") as pool:
        pool.refine(make_task(0)).result()
        pids.put(list(pool._processes))
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.faults("processes that end or hang")
def test_workers_end_with_a_killed_parent():
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    parent = context.Process(target=killed_parent, args=(pids,))
    parent.start()
    (worker,) = pids.get(timeout=120)
    parent.kill()
    parent.join()
    for _ in range(100):
        if has_ended(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there")


def has_ended(pid):
    """Return whether a process is gone, or waits only for its parent to take note (state Z)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_backends(monkeypatch, caplog):
    monkeypatch.setattr(crf, "find_spec", lambda name: object())
    assert [choose_backend(b) for b in crf.BACKENDS] == ["pydensecrf", "pydensecrf", "torch"]
    monkeypatch.setattr(crf, "find_spec", lambda name: None)
    with caplog.at_level("INFO", logger="dalnet"):
        assert [choose_backend(b) for b in ("auto", "torch")] == ["torch", "torch"]
    assert "pip install" in caplog.text
    with refused("TEST.CRF.BACKEND", "pydensecrf"):
        choose_backend("pydensecrf")
    with refused("TEST.CRF.BACKEND", "'cuda'"):
        choose_backend("cuda")

# SPDX-License-Identifier: Apache-2.0
"""CRFs in other processes: same labels, bounded work, and a sentence when something breaks."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from dalnet.errors import UsageError
from dalnet.evaluation import crf_pool
from dalnet.evaluation.crf_pool import CRFJob, CRFPool, choose_backend, result_of
from dalnet.layers import dense_crf

PARAMETERS = {
    "iters": 3,
    "pos_w": 1.0,
    "pos_xy_std": 1.0,
    "bi_w": 4.0,
    "bi_xy_std": 20.0,
    "bi_rgb_std": 8.0,
}


def make_job(seed, size=(24, 31), channels=3):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
    photograph = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[: size[0], : size[1]]
    probs = rng.dirichlet(np.ones(channels), size).transpose(2, 0, 1)
    return CRFJob(photograph, probs.astype(np.float32), (0, 4, 9)[:channels])


def labels_by_hand(job):
    images, probs = torch.from_numpy(job.photograph)[None], torch.from_numpy(job.probs)[None]
    return np.array(job.values)[dense_crf(images, probs, **PARAMETERS)[0].argmax(0).numpy()]


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_labels_are_those_of_the_layer(backend):
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    photograph = make_job(0).photograph
    jobs = [dataclasses.replace(make_job(seed), photograph=photograph) for seed in range(6)]
    jobs += [make_job(6, size=(1, 1)), make_job(7, channels=1)]
    with CRFPool(2, PARAMETERS, backend) as pool:
        futures = [pool.submit(jobs[:6]), *(pool.submit([job]) for job in jobs[6:])]
        results = [labels for future in futures for labels in result_of(future)]
    for job, labels in zip(jobs, results, strict=True):
        assert (labels.shape, labels.dtype) == (job.photograph.shape[:2], np.uint8)
        assert (labels == labels_by_hand(job)).mean() > 0.99
    assert any(
        (labels != np.array(j.values)[j.probs.argmax(0)]).any()
        for j, labels in zip(jobs, results, strict=True)
    ), "the CRF changed nothing"


def test_submit_waits_while_the_workers_are_busy(monkeypatch):
    """With both places taken a third job is not even copied to shared memory."""
    with CRFPool(1, {**PARAMETERS, "iters": 1}, "torch") as pool:
        shared = []
        share = crf_pool._share
        monkeypatch.setattr(crf_pool, "_share", lambda a: shared.append(1) or share(a))
        pool._room = threading.Semaphore(0)
        thread = threading.Thread(target=pool.submit, args=([make_job(0)],), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not shared
        pool._room.release()
        thread.join(30)
        assert not thread.is_alive() and len(shared) == 1


def test_a_dead_worker_is_one_sentence():
    with CRFPool(1, PARAMETERS, "torch") as pool:
        result_of(pool.submit([make_job(0)]))
        for pid in list(pool._executor._processes):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(UsageError, match="a CRF process ended .* fewer --workers"):
            for seed in range(50):
                result_of(pool.submit([make_job(seed)]))


def killed_parent(pids):
    with CRFPool(1, PARAMETERS, "torch") as pool:
        result_of(pool.submit([make_job(0)]))
        pids.put(list(pool._executor._processes))
        time.sleep(60)


def test_workers_end_with_a_killed_parent():
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    parent = context.Process(target=killed_parent, args=(pids,))
    parent.start()
    (worker,) = pids.get(timeout=60)
    parent.kill()
    parent.join()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there")


def test_full_shared_memory_is_one_sentence(monkeypatch):
    class Full:
        f_bavail, f_frsize = 1, 1000

    with CRFPool(1, PARAMETERS, "torch") as pool:
        monkeypatch.setattr(crf_pool.os, "statvfs", lambda path: Full)
        for seed in range(4):  # a refused job must not keep its place
            with pytest.raises(UsageError, match="shared memory, but .* --shm-size"):
                pool.submit([make_job(seed)])


def test_backends(monkeypatch, caplog):
    monkeypatch.setattr(crf_pool.crf_worker, "has_pydensecrf", lambda: True)
    assert [choose_backend(b) for b in ("auto", "torch")] == ["pydensecrf", "torch"]
    monkeypatch.setattr(crf_pool.crf_worker, "has_pydensecrf", lambda: False)
    with caplog.at_level("INFO", logger="dalnet"):
        assert choose_backend("auto") == "torch"
    assert "pip install" in caplog.text
    with pytest.raises(UsageError, match="not installed"):
        choose_backend("pydensecrf")
    with pytest.raises(UsageError, match="one of"):
        choose_backend("cuda")

# SPDX-License-Identifier: Apache-2.0
"""Run the dense CRF on label probabilities, in processes beside the one that runs the network."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

from dalnet.errors import UsageError
from dalnet.layers.dense_crf import MIN_PROB, dense_crf

BACKENDS = ("auto", "pydensecrf", "torch")

logger = logging.getLogger(__name__)


class CRFTask(NamedTuple):
    """A CRF to be run on one image.

    Attributes:
        image: uint8 ``[H, W, 3]``, RGB.
        probs: float32 ``[K, H, W]``, probabilities.
        labels: the K labels, in a label map, that the channels of ``probs`` stand for.
    """

    image: np.ndarray
    probs: np.ndarray
    labels: tuple[int, ...]


def choose_backend(wanted: str) -> str:
    """Resolve ``TEST.CRF.BACKEND`` to "pydensecrf" or "torch".

    Raises:
        UsageError: unknown, or not installed.
    """
    if wanted not in BACKENDS:
        raise UsageError(
            f"{wanted!r} is unknown", where="TEST.CRF.BACKEND", hint=f"use one of {BACKENDS}"
        )
    if wanted == "torch":
        return "torch"
    if find_spec("pydensecrf") is not None:
        return "pydensecrf"
    if wanted == "pydensecrf":
        raise UsageError(
            "pydensecrf is not installed",
            where="TEST.CRF.BACKEND",
            hint="pip install pydensecrf2, or set the key to torch, the built-in one",
        )
    logger.info(
        "pydensecrf is not installed: the built-in CRF is used, which gives the same labels but "
        "takes longer on a CPU. To change that: pip install pydensecrf2."
    )
    return "torch"


def require_workers(workers: int | None) -> None:
    """Refuse a number of processes below 1; None, for one that is chosen later, is accepted.

    Raises:
        UsageError: it is.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} processes cannot work", where="workers", hint="use 1 or more")


@contextmanager
def pool_errors() -> Iterator[None]:
    """Turn the error of a CRF process that has ended early into a ``UsageError``.

    Raises:
        UsageError: one has.
    """
    try:
        yield
    except BrokenProcessPool as error:
        what = "a CRF process ended before its work was done, most likely for lack of memory"
        hint = "run the same command again, it goes on where it was, with fewer of them"
        raise UsageError(what, where="workers", hint=hint) from error


class CRFPool(ProcessPoolExecutor):
    """Processes that turn :class:`CRFTask` into label maps. A context manager.

    A process that ends before its work is done, as for lack of memory, makes every further call
    and result raise ``BrokenProcessPool``.
    """

    def __init__(self, workers: int, parameters: Mapping[str, Any], backend: str) -> None:
        """
        Args:
            workers: number of processes, at least 1.
            parameters: keyword arguments of :func:`dalnet.layers.dense_crf`.
            backend: "pydensecrf" or "torch".
        """
        self.workers, self.backend = workers, backend
        self._parameters = dict(parameters)
        # Not fork: the parent runs threads and perhaps CUDA. The fork server imports once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", __name__])
        super().__init__(workers, context, _start_worker)

    def __exit__(self, *_: object) -> None:
        # After an error, what is still waiting is of no use.
        self.shutdown(cancel_futures=True)

    def refine(self, task: CRFTask) -> "Future[np.ndarray]":
        """Start a task; its result is the label map, uint8 ``[H, W]``."""
        return self.submit(_run, task, self._parameters, self.backend)


def _start_worker() -> None:
    # Each has one core, and Ctrl-C is handled by the parent.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot end its workers, which would wait for tasks for ever.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _run(task: CRFTask, parameters: Mapping[str, Any], backend: str) -> np.ndarray:
    """Run a task, in a worker: the label map, uint8 ``[H, W]``."""
    if len(task.labels) == 1:
        return np.full(task.image.shape[:2], task.labels[0], np.uint8)
    if backend == "pydensecrf":
        marginals = _run_pydensecrf(task, parameters)
    else:
        image, probs = torch.from_numpy(task.image), torch.from_numpy(task.probs)
        marginals = dense_crf(image[None], probs[None], **parameters)[0].numpy()
    return np.asarray(task.labels, np.uint8)[marginals.argmax(axis=0)]


def _run_pydensecrf(task: CRFTask, parameters: Mapping[str, Any]) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D  # optional

    channels, height, width = task.probs.shape
    crf = DenseCRF2D(width, height, channels)
    crf.addPairwiseGaussian(sxy=parameters["pos_xy_std"], compat=parameters["pos_w"])
    crf.addPairwiseBilateral(
        sxy=parameters["bi_xy_std"],
        srgb=parameters["bi_rgb_std"],
        rgbim=task.image,
        compat=parameters["bi_w"],
    )
    energy = -np.log(task.probs.reshape(channels, -1).clip(MIN_PROB, 1.0))
    crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
    return np.array(crf.inference(int(parameters["iters"]))).reshape(task.probs.shape)

# SPDX-License-Identifier: Apache-2.0
"""Dense CRF on label probabilities in a pool of processes, fed through shared memory."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from dalnet.errors import UsageError

from . import crf_worker

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pydensecrf", "torch")
_JOBS_PER_WORKER = 2  # one at work and one waiting: enough to keep a worker busy
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class CRFJob:
    """One photograph's CRF.

    Attributes:
        photograph: uint8 [H, W, 3], RGB.
        probs: float32 [K, H, W], probabilities.
        values: the K labels, in a label map, that the channels of ``probs`` stand for.
    """

    photograph: np.ndarray
    probs: np.ndarray
    values: tuple[int, ...]


def choose_backend(wanted: str) -> str:
    """Resolve ``TEST.CRF.BACKEND`` to "pydensecrf" or "torch".

    Raises:
        UsageError: unknown, or not installed.
    """
    if wanted not in BACKENDS:
        raise UsageError(f"TEST.CRF.BACKEND is {wanted!r}; it must be one of {BACKENDS}.")
    installed = crf_worker.has_pydensecrf()
    if wanted == "pydensecrf" and not installed:
        raise UsageError(
            "TEST.CRF.BACKEND is pydensecrf, which is not installed; install it with "
            "pip install pydensecrf2, or set the key to torch, the built-in one."
        )
    if wanted == "auto" and not installed:
        logger.info(
            "pydensecrf is not installed: the built-in CRF is used, which gives the same labels "
            "but takes longer on a CPU. To change that: pip install pydensecrf2."
        )
    return "torch" if wanted == "torch" or not installed else "pydensecrf"


class CRFPool:
    """Worker processes that turn :class:`CRFJob` into label maps. A context manager.

    Probabilities travel through shared memory, label maps come back as arrays. The work in flight
    is bounded: :meth:`submit` waits while every worker has one job at work and one waiting.
    """

    def __init__(self, workers: int, parameters: Mapping[str, float], backend: str) -> None:
        """Start ``workers`` processes.

        Args:
            workers: number of processes, at least 1.
            parameters: keyword arguments of :func:`dalnet.layers.dense_crf`.
            backend: "pydensecrf" or "torch".
        """
        self._room = threading.Semaphore(_JOBS_PER_WORKER * workers)
        self._task = (dict(parameters), backend)
        # Not fork: the parent runs threads and perhaps CUDA. The fork server imports once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", crf_worker.__name__])
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=crf_worker.start
        )

    def __enter__(self) -> "CRFPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def submit(self, jobs: Sequence[CRFJob]) -> "Future[np.ndarray]":
        """Start J jobs on one photograph, when there is room for them.

        Args:
            jobs: with equal ``values``: they share the filter, which the photograph alone decides.

        Returns:
            A future whose result, see :func:`result_of`, are the label maps, uint8 [J, H, W].

        Raises:
            UsageError: there is no shared memory left, or a worker has died.
        """
        self._room.acquire()
        try:
            memory = _share((jobs[0].photograph, *(job.probs for job in jobs)))
        except UsageError:
            self._room.release()
            raise
        try:
            shape = (len(jobs), *jobs[0].probs.shape)
            future = self._executor.submit(
                crf_worker.run, memory.name, shape, jobs[0].values, *self._task
            )
        except BrokenProcessPool as error:
            self._finish(memory)
            raise _worker_died() from error
        future.add_done_callback(lambda _: self._finish(memory))
        return future

    def _finish(self, memory: SharedMemory) -> None:
        _release(memory)
        self._room.release()


def result_of(future: "Future[np.ndarray]") -> np.ndarray:
    """Wait for the jobs of one call of ``submit``.

    Raises:
        UsageError: its worker has died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _worker_died() from error


def _worker_died() -> UsageError:
    return UsageError(
        "a CRF process ended before its work was done, most likely for lack of memory; run the "
        "same command again with fewer --workers, it goes on where it was."
    )


def _share(arrays: tuple[np.ndarray, ...]) -> SharedMemory:
    size = sum(array.nbytes for array in arrays)
    if os.path.isdir(_SHARED_MEMORY):
        # Writing beyond what is free ends the process without a word.
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
        if free < size:
            raise UsageError(
                f"the CRF needs {size / 1e6:.0f} MB of shared memory, but {_SHARED_MEMORY} has "
                f"{free / 1e6:.0f} MB free; use fewer --workers or enlarge it (docker run "
                "--shm-size 2g)."
            )
    memory = SharedMemory(create=True, size=size)
    start = 0
    for array in arrays:
        target = np.ndarray(array.shape, array.dtype, memory.buf, start)
        target[...] = array
        start += array.nbytes
    return memory


def _release(memory: SharedMemory) -> None:
    memory.close()
    memory.unlink()

# SPDX-License-Identifier: Apache-2.0
"""What runs inside a process of the CRF pool."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import torch

from dalnet.layers.dense_crf import MIN_PROB, dense_crf


def has_pydensecrf() -> bool:
    """Whether the compiled CRF is installed."""
    return find_spec("pydensecrf") is not None


def start() -> None:
    """Prepare a fresh worker: one core each, and an interrupt is the parent's business."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, which would wait for jobs for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def run(
    memory_name: str,
    shape: tuple[int, int, int, int],
    values: Sequence[int],
    parameters: Mapping[str, float],
    backend: str,
) -> np.ndarray:
    """Run the CRFs of one photograph. It lies in shared memory, probabilities behind it.

    Args:
        memory_name: of the block.
        shape: (J, K, H, W) of the probabilities of J jobs.
        values: labels of the K channels.
        parameters: keyword arguments of :func:`dalnet.layers.dense_crf`.
        backend: "pydensecrf" or "torch".

    Returns:
        uint8 [J, H, W], labels.
    """
    memory = SharedMemory(name=memory_name)
    try:
        count, channels, height, width = shape
        photograph = np.ndarray((height, width, 3), np.uint8, memory.buf).copy()
        probs = np.ndarray(shape, np.float32, memory.buf, photograph.nbytes).copy()
    finally:
        memory.close()
    if channels == 1:
        return np.full((count, height, width), values[0], np.uint8)
    infer = _pydensecrf if backend == "pydensecrf" else _torch
    labels = [marginals.argmax(axis=0) for marginals in infer(photograph, probs, **parameters)]
    return np.asarray(values, np.uint8)[np.stack(labels)]


def _torch(photograph: np.ndarray, probs: np.ndarray, **parameters: float) -> Iterator[np.ndarray]:
    image = torch.from_numpy(photograph)[None]
    for one in torch.from_numpy(probs):
        yield dense_crf(image, one[None], **parameters)[0].numpy()


def _pydensecrf(
    photograph: np.ndarray,
    probs: np.ndarray,
    iters: int,
    pos_w: float,
    pos_xy_std: float,
    bi_w: float,
    bi_xy_std: float,
    bi_rgb_std: float,
) -> Iterator[np.ndarray]:
    from pydensecrf.densecrf import DenseCRF2D  # optional

    channels, height, width = probs.shape[1:]
    # Its filters depend on the photograph alone; only the unary energy changes.
    crf = DenseCRF2D(width, height, channels)
    crf.addPairwiseGaussian(sxy=pos_xy_std, compat=pos_w)
    crf.addPairwiseBilateral(sxy=bi_xy_std, srgb=bi_rgb_std, rgbim=photograph, compat=bi_w)
    for one in probs:
        energy = -np.log(one.reshape(channels, -1).clip(MIN_PROB, 1.0))
        crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
        yield np.array(crf.inference(int(iters))).reshape(one.shape)

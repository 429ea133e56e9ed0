# SPDX-License-Identifier: Apache-2.0
"""What runs inside a process of the CRF pool."""

import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import torch

from dalnet.layers import dense_crf

# As in dalnet.layers.dense_crf: keeps the unary energy of an impossible class finite.
_MIN_PROB = 1e-5


def has_pydensecrf() -> bool:
    """Whether the compiled CRF is installed."""
    return find_spec("pydensecrf") is not None


def start() -> None:
    """Prepare a fresh worker: one core each, and an interrupt is the parent's business."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(
    memory_name: str,
    shape: tuple[int, int, int],
    values: Sequence[int],
    parameters: Mapping[str, float],
    backend: str,
) -> np.ndarray:
    """Run the CRF of a job that lies in shared memory: photograph, then probabilities.

    Args:
        memory_name: of the block.
        shape: (K, H, W) of the probabilities.
        values: labels of the K channels.
        parameters: keyword arguments of :func:`dalnet.layers.dense_crf`.
        backend: "pydensecrf" or "torch".

    Returns:
        uint8 [H, W], labels.
    """
    memory = SharedMemory(name=memory_name)
    try:
        channels, height, width = shape
        photograph = np.ndarray((height, width, 3), np.uint8, memory.buf).copy()
        probs = np.ndarray(shape, np.float32, memory.buf, photograph.nbytes).copy()
    finally:
        memory.close()
    if channels == 1:
        return np.full((height, width), values[0], np.uint8)
    infer = _pydensecrf if backend == "pydensecrf" else _torch
    return np.asarray(values, np.uint8)[infer(photograph, probs, **parameters).argmax(axis=0)]


def _torch(photograph: np.ndarray, probs: np.ndarray, **parameters: float) -> np.ndarray:
    images, scores = torch.from_numpy(photograph)[None], torch.from_numpy(probs)[None]
    return dense_crf(images, scores, **parameters)[0].numpy()


def _pydensecrf(
    photograph: np.ndarray,
    probs: np.ndarray,
    iters: int,
    pos_w: float,
    pos_xy_std: float,
    bi_w: float,
    bi_xy_std: float,
    bi_rgb_std: float,
) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D  # optional

    channels, height, width = probs.shape
    crf = DenseCRF2D(width, height, channels)
    energy = -np.log(probs.reshape(channels, -1).clip(_MIN_PROB, 1.0))
    crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
    crf.addPairwiseGaussian(sxy=pos_xy_std, compat=pos_w)
    crf.addPairwiseBilateral(sxy=bi_xy_std, srgb=bi_rgb_std, rgbim=photograph, compat=bi_w)
    return np.array(crf.inference(int(iters))).reshape(probs.shape)

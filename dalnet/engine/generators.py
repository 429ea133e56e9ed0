# SPDX-License-Identifier: Apache-2.0
"""Keep and restore the states of the random number generators of a process."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Generators = dict[str, Any]


def generator_states() -> Generators:
    """Return the states of Python's, NumPy's and PyTorch's global generators.

    They consist of tensors and plain values, so that a checkpoint with them is read without
    unpickling.
    """
    numpy = np.random.get_state(legacy=False)
    numpy["state"] |= {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64))}
    states: Generators = {
        "python": random.getstate(),
        "numpy": numpy,
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()  # of this process's GPU
    return states


def set_generator_states(states: Generators) -> None:
    """Restore what :func:`generator_states` has returned.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: they are malformed.
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy = states["numpy"]
    keys = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": keys}})
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the generators after the block, whatever it has drawn."""
    states = generator_states()
    try:
        yield
    finally:
        set_generator_states(states)

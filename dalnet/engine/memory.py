# SPDX-License-Identifier: Apache-2.0
"""Say in one sentence that memory ran out, and which keys need less of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from dalnet.errors import UsageError
from dalnet.modeling.memory import is_gpu_full, is_out_of_memory

TRAINING = (
    "SOLVER.IMS_PER_BATCH",
    "lower it, or keep it and raise SOLVER.ACCUMULATION_STEPS; lower INPUT.CROP.SIZE or "
    "INPUT.MULTI_CROP.LOCAL_VIEWS; or set MODEL.VIT.GRAD_CHECKPOINTING, and on a GPU "
    "SOLVER.AMP.ENABLED, to True",
)
EVALUATION = (
    "INPUT.MIN_SIZE_TEST",
    "set it to fewer pixels; or leave large scales out of TEST.MULTI_SCALE.SCALES and "
    "MODEL.CAM.SCALES",
)
_LOADING = (
    "DATALOADER.NUM_WORKERS",
    "lower it, or SOLVER.IMS_PER_BATCH or INPUT.CROP.SIZE; a container may also have too little "
    "shared memory (docker run --shm-size)",
)


@contextmanager
def memory_errors(place: tuple[str, str]) -> Iterator[None]:
    """Raise a ``UsageError`` where memory runs out: a GPU's, the CPU's, or that of a loader.

    Args:
        place: the key to change first, and a hint with others: :data:`TRAINING` or
            :data:`EVALUATION`.

    Raises:
        UsageError: with what PyTorch says of it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        # PyTorch has no exception class for loaders.
        if "DataLoader worker (pid" in text:
            what = "a process that reads images was ended, as the system does where memory runs out"
            raise UsageError(f"{what} ({text})", *_LOADING) from error
        if is_out_of_memory(error):
            what = "the GPU's memory is full" if is_gpu_full(error) else "memory is full"
            raise UsageError(f"{what} ({text})".removesuffix(" ()"), *place) from error
        raise

# SPDX-License-Identifier: Apache-2.0
"""Label masks as palette PNGs, many at a time."""

import hashlib
import signal
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.image_io import write_mask
from dalnet.errors import UsageError


class MaskSummary(NamedTuple):
    """What :func:`write_masks` did.

    ``checksum`` is a SHA-256 over file names and pixel values, so it does not depend on the PNG
    encoder, on the order of work or on what an earlier run had finished.
    """

    written: int
    kept: int
    checksum: str

    def __str__(self) -> str:
        counts = f"{self.written:,} written, {self.kept:,} kept"
        return f"{self.written + self.kept:,} masks ({counts}), sha256 {self.checksum}"


def write_masks(
    sources: Mapping[Path, Any], render: Callable[[Any], np.ndarray], workers: int | None = None
) -> MaskSummary:
    """Render one palette PNG for each entry and show a progress bar.

    A readable file under a target's name counts as finished (files appear only when complete).

    Args:
        sources: target file -> what ``render`` needs for it.
        render: makes a mask, uint8 [H, W]; a function of a module, as other processes call it.
        workers: number of processes, at least 1; all cores where not given.

    Returns:
        Counts and checksum over all targets.

    Raises:
        UsageError: from ``render``, without workers, or where a file cannot be written.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} processes", where="workers", hint="give 1 or more")
    digests, written = {}, 0
    # Ctrl-C reaches the workers too; this process ends them, and each would print a traceback.
    with Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        finished = pool.imap_unordered(partial(_finish, render), sources.items(), chunksize=8)
        for name, digest, is_new in tqdm(finished, total=len(sources), unit="mask"):
            digests[name] = digest
            written += is_new
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    return MaskSummary(written, len(digests) - written, checksum)


def _finish(render: Callable[[Any], np.ndarray], target: tuple[Path, Any]) -> tuple[str, str, bool]:
    """Return the name of a mask, the checksum of its pixels and whether it is new."""
    path, source = target
    try:
        with Image.open(path) as image:
            mask, is_new = np.array(image), False
    except (OSError, SyntaxError):
        mask, is_new = render(source), True
        write_mask(path, mask)
    digest = hashlib.sha256(f"{mask.shape}".encode() + mask.tobytes()).hexdigest()
    return path.name, digest, is_new

# SPDX-License-Identifier: Apache-2.0
"""Label masks as palette PNGs, many at a time."""

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from dalnet.data.image_io import read_mask, write_mask
from dalnet.errors import UsageError
from dalnet.io import require_file

_MAX_MAT = 2 << 20  # bytes, which may unfold to a thousand times as many


def load_mat(path: Path, **options: Any) -> dict[str, Any]:
    """Return what a MATLAB file with the mask of one image holds.

    Raises:
        ValueError: it is larger than such a file; scipy and zlib have errors of their own for a
            damaged one.
    """
    require_file(path)
    if path.stat().st_size > _MAX_MAT:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")
    return loadmat(path, **options)


class MaskSource(NamedTuple):
    """What a mask is drawn from."""

    content: Any
    changed_at: float  # seconds since the epoch; an older mask is drawn again


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
    sources: Mapping[Path, MaskSource],
    render: Callable[[Any], np.ndarray],
    workers: int | None = None,
) -> MaskSummary:
    """Render one palette PNG for each entry and show a progress bar.

    A readable file under a target's name counts as finished (files appear only when complete)
    unless it is older than its source.

    Args:
        sources: what ``render`` needs, by target file.
        render: makes a mask, uint8 [H, W]; a function of a module, as other processes call it.
        workers: number of processes, at least 1; all cores where not given.

    Returns:
        Counts and checksum over all targets.

    Raises:
        UsageError: from ``render``, fewer than one worker, a file that cannot be written, or a
            process that was killed.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} processes", where="workers", hint="give 1 or more")
    workers = min(workers or os.cpu_count() or 1, max(len(sources), 1))
    digests, written = {}, 0
    root = os.path.commonpath([path.parent for path in sources]) if sources else ""
    try:
        # Ctrl-C reaches the workers too; this process ends them, and each would print a traceback.
        with ProcessPoolExecutor(
            workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        ) as pool:
            finished = pool.map(partial(_finish, render), sources, sources.values(), chunksize=8)
            try:
                for path, digest, is_new in tqdm(finished, total=len(sources), unit="mask"):
                    digests[os.path.relpath(path, root)] = digest
                    written += is_new
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or an interrupt would wait for all masks
                raise
    except BrokenProcessPool as e:
        what = "a process that draws masks ended: memory ran out, or a file harmed it"
        hint = "run the command again, with fewer workers: finished masks are kept"
        raise UsageError(what, "workers", hint) from e
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    checksum = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    return MaskSummary(written, len(digests) - written, checksum)


def _finish(
    render: Callable[[Any], np.ndarray], path: Path, source: MaskSource
) -> tuple[Path, str, bool]:
    """Return a mask's path, the checksum of its pixels and whether it is new."""
    is_new = not path.exists() or path.stat().st_mtime < source.changed_at
    if not is_new:
        try:
            mask = read_mask(str(path))
        except UsageError:
            is_new = True
    if is_new:
        mask = render(source.content)
        write_mask(path, mask)
    digest = hashlib.sha256(f"{mask.shape}".encode() + mask.tobytes()).hexdigest()
    return path, digest, is_new

# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: one training at a time, and what another one finds there."""

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dalnet.checkpoint.history import LAST, LIST, has_saved
from dalnet.errors import UsageError
from dalnet.io import UNFINISHED

from .run_record import RECORD, read_record

# What a training leaves, but for its config and a description of its images, which are replaced.
_FILES = ("model_*.pth", LAST, LIST, "metrics.json", RECORD, UNFINISHED)
_LOGS = ("log.txt*", "events.out.tfevents.*")
_RESULTS = "evaluation"  # folder of the results of its checkpoints
# What a start replaces, and where that lies until the start has gone well.
_REPLACED = ("config.yaml", "dataset.yaml")
_OVERWRITTEN, _RESUMED, _REMOVED = ".overwritten", ".resumed", ".removed"
_LOCK = ".lock"
_OLD = 600.0  # seconds

logger = logging.getLogger(__name__)


def has_training(folder: Path) -> bool:
    """Return whether a training has saved a checkpoint or losses in a folder."""
    metrics = folder / "metrics.json"
    has_losses = metrics.is_file() and metrics.stat().st_size > 0
    return has_losses or has_saved(folder) or any(folder.glob("model_*.pth"))


def require_unused(folder: str | Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder with a training that is neither resumed nor overwritten.

    Two trainings in one folder would mix their losses, and ``last_checkpoint`` would name either.

    Raises:
        UsageError: there is one, or it is to be resumed and overwritten.
    """
    if resume and overwrite:
        raise UsageError("a training that is resumed cannot be overwritten", "overwrite")
    if not (resume or overwrite) and has_training(Path(folder)):
        hint = "resume it, overwrite it, or choose another folder"
        raise UsageError(f"{folder} holds a training already", "OUTPUT_DIR", hint)


def remove_training(folder: Path) -> None:
    """Remove what a training and the evaluations of its checkpoints have left in a folder."""
    for path in _left_by_training(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _left_by_training(folder: Path) -> list[Path]:
    patterns = (*_FILES, *_LOGS, _RESULTS)
    return [path for pattern in patterns for path in folder.glob(pattern)]


@contextmanager
def old_training_kept(folder: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Bring back the earlier training of a folder if the block, which starts a new one, fails.

    Of a training that is resumed config, description and record are kept until then, of one that
    is overwritten all that it has left.
    """
    if not (resume or overwrite):
        yield
        return
    aside = folder / (_OVERWRITTEN if overwrite else _RESUMED)
    aside.mkdir()
    for path in _left_by_training(folder) if overwrite else ():
        path.rename(aside / path.name)
    for name in (*_REPLACED, RECORD):
        if (folder / name).is_file():
            shutil.copy2(folder / name, aside)
    try:
        yield
    except BaseException:
        _bring_back(folder)
        raise
    # Under another name nothing is brought back of what is half deleted.
    shutil.rmtree(aside.rename(folder / _REMOVED))


def _bring_back(folder: Path) -> None:
    """Restore the files of a training whose replacement has failed, or was killed at its start."""
    if (folder / _OVERWRITTEN).is_dir():
        remove_training(folder)
    for aside in (folder / _OVERWRITTEN, folder / _RESUMED):
        if aside.is_dir():
            for path in aside.iterdir():
                path.replace(folder / path.name)
            aside.rmdir()
    shutil.rmtree(folder / _REMOVED, ignore_errors=True)


def make_writable(folder: str) -> None:
    """Make a folder where it is missing.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"{folder} cannot be written to ({error.strerror})"
        raise UsageError(what, "OUTPUT_DIR", "choose another folder") from error


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other trainings out of a folder in the block.

    The lock is the operating system's: it ends with the process, also with one that is killed.

    Raises:
        UsageError: a training is running in it, or it cannot be written to.
    """
    make_writable(folder)
    lock = FileLock(Path(folder, _LOCK))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        starts = read_record(Path(folder))
        which = f" (process {starts[-1].get('process')})" if starts else ""
        hint = "wait for it, or choose another folder"
        raise UsageError(f"a training{which} runs in {folder}", "OUTPUT_DIR", hint) from None
    try:
        _bring_back(Path(folder))
        _remove_leftovers(Path(folder))
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left half-written; a checkpoint may have been among it."""
    for path in folder.glob(UNFINISHED):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _OLD:  # not of a command at work
                path.unlink()


def drop_later_metrics(folder: Path, start_iter: int) -> None:
    """Cut off the losses of iterations that a resumed training takes again.

    ``metrics.json`` has a line for every few iterations; some of a training that was killed may be
    newer than its last checkpoint. The file is cut in place, as its writer has opened it.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        lines = stream.readlines()
        # Detectron2 writes results of an evaluation behind losses of later iterations.
        kept = [line for line in lines if _stays(_read_line(line), start_iter)]
        if len(kept) < len(lines):
            logger.info("Losses of iterations from %d on are taken anew.", start_iter)
            stream.seek(0)
            stream.writelines(kept)
            stream.truncate()


def has_results(folder: Path, count: int) -> bool:
    """Return whether ``metrics.json`` has results of an evaluation after ``count`` iterations."""
    path = folder / "metrics.json"
    entries = map(_read_line, path.read_bytes().splitlines() if path.is_file() else ())
    # They stand under the last iteration, or behind it where they are those of the training's end.
    places = (count - 1, count)
    return any(_is_result(one) for one in entries if one["iteration"] in places)


def _read_line(line: bytes) -> dict[str, Any]:
    """Parse a line of metrics; the iteration of one that is cut off is infinity."""
    try:
        entry = json.loads(line)
        return entry | {"iteration": float(entry["iteration"])}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {"iteration": math.inf}


def _stays(entry: dict[str, Any], start_iter: int) -> bool:
    """Return whether a line of metrics is kept when the training goes on from an iteration."""
    count: float = entry["iteration"]
    return count < start_iter or (count == start_iter and _is_result(entry))


def _is_result(entry: dict[str, Any]) -> bool:
    """Return whether a line of metrics holds results of an evaluation."""
    return any("/" in name for name in entry)  # as in sem_seg/mIoU

# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: tell whether a training is in it, and clear it for another."""

import shutil
import tempfile
from pathlib import Path

from dalnet.errors import UsageError

# What a training leaves. Its log, config and description of images are written anew or added to.
_FILES = ("model_*.pth", "last_checkpoint", "metrics.json", "log.txt*", "events.out.tfevents.*")
_RESULTS = "evaluation"  # folder of the results of its checkpoints


def has_training(folder: Path) -> bool:
    """Return whether a training has saved a checkpoint or losses in a folder."""
    metrics = folder / "metrics.json"
    has_losses = metrics.is_file() and metrics.stat().st_size > 0
    return has_losses or (folder / "last_checkpoint").exists() or any(folder.glob("model_*.pth"))


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
    for pattern in _FILES:
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / _RESULTS, ignore_errors=True)


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

# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints a run has saved, so that a damaged one is told from a good one.

``checkpoints.json`` in the run's folder lists them from the oldest to the newest, each with its
size and SHA-256. PyTorch's own format notices a file that is cut, but no changed bytes.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from dalnet.documents import read_json, write_json
from dalnet.errors import UsageError
from dalnet.io import read_text, sha256, write_text

LIST = "checkpoints.json"
_MAX_NAME = 200  # letters
LAST = "last_checkpoint"  # Detectron2's file, which holds the name of the newest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint as it was written.

    Attributes:
        file: its name in the folder of the run.
        iteration: the last one before it was saved, counted from 0; -1 if none is known.
        size: bytes.
        sha256: hexadecimal.
    """

    file: str
    iteration: int
    size: int
    sha256: str

    @classmethod
    def of_file(cls, path: Path, iteration: int) -> "SavedCheckpoint":
        """Describe a file that has just been written."""
        return cls(path.name, iteration, path.stat().st_size, sha256(path))

    def damage(self, folder: Path) -> str:
        """Return what has happened to the file since; empty for nothing."""
        path = folder / self.file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes instead of {self.size}"
        return "" if sha256(path) == self.sha256 else "has other bytes than were written"


def read_saved(folder: Path) -> list[SavedCheckpoint]:
    """Return the checkpoints of a run from the oldest to the newest; none if there is no list.

    Raises:
        UsageError: the list is damaged.
    """
    path, hint = folder / LIST, f"remove it to go on from {LAST}"
    if not path.is_file():
        return []
    try:
        checkpoints = [SavedCheckpoint(**entry) for entry in read_json(path, hint)]
    except TypeError as error:
        raise UsageError(f"it is no list of checkpoints ({error})", path, hint) from error
    for one in checkpoints:
        kinds = isinstance(one.file, str), isinstance(one.size, int), isinstance(one.sha256, str)
        # Files of this list are deleted once there are newer ones.
        if not all(kinds) or not one.file or not _is_file_name(one.file):
            raise UsageError(f"it names {str(one.file)[:80]!r}", path, hint)
    return checkpoints


def has_saved(folder: Path) -> bool:
    """Return whether a run has saved a checkpoint.

    Raises:
        UsageError: the list of its checkpoints is damaged.
    """
    return bool(read_saved(folder)) or (folder / LAST).exists()


def add_saved(folder: Path, saved: SavedCheckpoint, keep: int) -> None:
    """Add the newest checkpoint to the list, and delete all but the newest ``keep`` (0: none)."""
    checkpoints = [one for one in read_saved(folder) if one.file != saved.file] + [saved]
    old = checkpoints[:-keep] if keep else []
    kept = [asdict(one) for one in checkpoints[len(old) :]]
    write_json(folder / LIST, kept, durable=True)
    write_text(folder / LAST, saved.file, durable=True)
    for one in old:
        (folder / one.file).unlink(missing_ok=True)


def read_last(folder: Path) -> str:
    """Return the name of the newest checkpoint of a run; empty if the run has none.

    Raises:
        UsageError: what stands there is no name of a file.
    """
    path = folder / LAST
    if not path.is_file():
        return ""
    name = read_text(path, "write the name of a checkpoint").strip()
    if not _is_file_name(name):
        raise UsageError(
            f"it holds {name[:80]!r}", path, "write the name of a checkpoint beside it"
        )
    return name


def _is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder."""
    is_one = Path(name).name == name and name != ".." and "\0" not in name
    return is_one and len(name) <= _MAX_NAME


def newest_good(folder: Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, or if it is damaged one before it.

    None if the run has saved none.

    Raises:
        UsageError: all these checkpoints are damaged, or none is named as it should be.
    """
    checkpoints = read_saved(folder)
    last, name = folder / LAST, read_last(folder)
    if name:
        names = [saved.file for saved in checkpoints]
        if name not in names:
            # Of a run that keeps no list, or written by hand.
            if not (folder / name).is_file():
                raise UsageError(f"it names {name!r}, which does not exist", last, "correct it")
            return folder / name
        checkpoints = checkpoints[: names.index(name) + 1]
    if not checkpoints:
        return None
    for saved in reversed(checkpoints):
        damage = saved.damage(folder)
        if not damage:
            return folder / saved.file
        logger.warning("%s %s: the checkpoint before it is used.", folder / saved.file, damage)
    newest = checkpoints[-1]
    what = f"the file {newest.damage(folder)}, and no earlier checkpoint is whole"
    raise UsageError(what, folder / newest.file, "train anew")

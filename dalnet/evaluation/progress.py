# SPDX-License-Identifier: Apache-2.0
"""Keep what an interrupted evaluation has counted, and tell whether it is of today's files."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from detectron2.utils import comm

import dalnet

from .counts import Counts
from .dump import image_name

logger = logging.getLogger(__name__)
Record = dict[str, Any]


def image_key(record: Record) -> str:
    """Return the name of an image with a hash of what it is counted from.

    That is its file and its mask, by path, size and time of change, and its labels.
    """
    values = [record.get(key) for key in ("image_labels", "unknown_labels")]
    for path in (record["file_name"], record.get("sem_seg_file_name")):
        status = os.stat(path) if path and os.path.exists(path) else None
        values.append((path, status and (status.st_size, status.st_mtime_ns)))
    return f"{image_name(record)}:{_hash(values)}"


class Progress:
    """Counts of an evaluation on disk: a folder with a file for each process that has counted.

    Attributes:
        keys: :func:`image_key` of all images, by name. Images are counted under them.
    """

    def __init__(self, output: Path, records: Iterable[Record], *settings: object) -> None:
        """
        Args:
            output: folder of the results; the counts lie in a hidden folder of it.
            records: of all images.
            settings: everything else that the counts depend on; each has to have a ``repr`` that
                is the same in another process.
        """
        self.keys = {image_name(record): image_key(record) for record in records}
        self.folder = output / f".progress-{_hash((dalnet.__version__, *settings))}"
        self._path = self.folder / f"{uuid4().hex}.safetensors"

    def load(self, counts: Counts, lost: Iterable[str] = ()) -> Counts:
        """Return the sum of what all ranks have saved before; each has to call it.

        A file that holds an image whose key has changed, or that another file holds too, adds
        nothing, since its other counts cannot be told apart; it is removed, and the log names it.

        Args:
            counts: of the same measurements; they stay as they are.
            lost: names of images that have to be done again.
        """
        total, known = counts.empty_copy(), {*self.keys.values()}
        known -= {self.keys[name] for name in lost}
        refused = []
        for path in sorted(self.folder.glob("*.safetensors")):
            one = counts.load(path)
            if one is not None and known.issuperset(one.names):
                total.merge(one)
                known.difference_update(one.names)
                continue
            reason = "holds images that have changed since, are counted twice, or lack their file"
            reason = "cannot be read" if one is None else reason
            logger.warning("%s %s: its images are done again.", path, reason)
            refused.append(path)
        if total.names:
            logger.info("%d of %d images were done before.", len(total.names), len(self.keys))
        comm.synchronize()  # All ranks have to read the same files: none may save before.
        for path in refused if comm.is_main_process() else ():
            path.unlink(missing_ok=True)
        return total

    def save(self, counts: Counts) -> None:
        """Save the counts of this process."""
        if counts.names:
            counts.save(self._path)

    def discard(self) -> None:
        """Remove all that was saved."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogateescape")).hexdigest()[:16]

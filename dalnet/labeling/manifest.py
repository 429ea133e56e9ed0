# SPDX-License-Identifier: Apache-2.0
"""Record which images have been labeled, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from dalnet.errors import UsageError
from dalnet.io import read_text

FILE = "manifest.jsonl"


@dataclass(frozen=True)
class Finished:
    """One labeled image, a line of the manifest.

    Attributes:
        file: the image, below the folder of the images.
        key: of what the label map was made from, see :meth:`Manifest.key`.
        mask: its label map, below the folder ``masks``.
        confidence: mean over the pixels of the largest probability, 0..1.
        reason: why a person should look at it.
    """

    file: str
    key: str
    mask: str
    confidence: float
    reason: str


class Manifest:
    """The finished images of one folder of label maps; each is written when it is done.

    Attributes:
        finished: by image.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Open the manifest of a folder, or begin one.

        Args:
            output: the folder.
            settings: what the label maps depend on, of plain values, but for the image.
            overwrite: replace the label maps of other settings.

        Raises:
            UsageError: the folder holds something else, or label maps of other settings.
        """
        self._settings = json.dumps(settings, sort_keys=True)
        self._path = output / FILE
        self.finished: dict[str, Finished] = {}
        if self._path.is_file():
            self._read(overwrite)
        elif output.is_dir() and any(output.iterdir()) and not overwrite:
            raise UsageError("it is not empty", output, "name another folder, or overwrite it")
        output.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = self._path.open("a", encoding="utf-8")
        if not self.finished and not self._path.stat().st_size:
            self._write({"settings": self._settings})

    def key(self, image: Path, tags: list[str]) -> str:
        """Return a hash of the settings, of an image's tags, and of its file's size and time."""
        stat = image.stat()
        parts = [self._settings, sorted(tags), stat.st_size, stat.st_mtime_ns]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def is_finished(self, file: str, key: str, masks: Path) -> bool:
        """Return whether an image has a label map that was made from the same."""
        entry = self.finished.get(file)
        return entry is not None and entry.key == key and (masks / entry.mask).is_file()

    def add(self, entry: Finished) -> None:
        """Write down a finished image."""
        self.finished[entry.file] = entry
        self._write(asdict(entry))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(content) + "\n")
        self._stream.flush()

    def _read(self, overwrite: bool) -> None:
        lines = read_text(self._path, "remove the folder, or overwrite it").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
                if "settings" not in content:
                    self.finished[content["file"]] = Finished(**content)
                elif content["settings"] != self._settings:
                    if not overwrite:
                        hint = "name another folder, or overwrite it"
                        raise UsageError("label maps of other settings", self._path.parent, hint)
                    self.finished.clear()
                    self._path.unlink()
                    return
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number == len(lines):
                    break  # cut off when the command was killed; that image is done again
                where = f"{self._path}, line {number}"
                hint = "remove the folder, or overwrite it"
                raise UsageError("it is damaged", where, hint) from error
        if lines and not self._path.read_bytes().endswith(b"\n"):
            # The next line must not be appended to half of one.
            kept = "".join(f"{line}\n" for line in lines[:-1])
            self._path.write_text(kept, encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""Record which images have been labeled, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
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

    def __post_init__(self) -> None:
        """Refuse what no labeling writes.

        Raises:
            ValueError: a value of another type, or a label map that is not in the folder.
        """
        if not all(isinstance(text, str) for text in (self.file, self.key, self.mask, self.reason)):
            raise ValueError("a name is no text")
        if not isinstance(self.confidence, float | int):
            raise ValueError("the confidence is no number")
        path = PurePosixPath(self.mask)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".png":
            raise ValueError(f"the label map {self.mask!r} is not in the folder")


class Manifest:
    """The finished images of one folder of label maps; each is written when it is done.

    Attributes:
        finished: by image.
        replaced: the label maps of other settings, which ``overwrite`` gives up.
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
        self.replaced: list[str] = []
        self._owners: dict[str, str] = {}  # image of each label map
        if self._path.is_file():
            self._read(overwrite)
        elif output.is_dir() and any(output.iterdir()) and not overwrite:
            raise UsageError("it is not empty", output, "name another folder, or overwrite it")
        output.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = self._path.open("a", encoding="utf-8")
        if not self.finished and not self._path.stat().st_size:
            self._write({"settings": self._settings})

    def key(self, image: Path, tags: list[str]) -> str:
        """Return a hash of the settings, of an image's tags, and of its file's size and time.

        Raises:
            OSError: there is no such file, as where a link points to nothing.
        """
        stat = image.stat()
        parts = [self._settings, sorted(tags), stat.st_size, stat.st_mtime_ns]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def is_finished(self, file: str, key: str, mask: str) -> bool:
        """Return whether an image has a label map of this name that was made from the same."""
        entry = self.finished.get(file)
        return entry is not None and (entry.key, entry.mask) == (key, mask)

    def add(self, entry: Finished) -> None:
        """Write down a finished image."""
        self._write(asdict(entry))
        self._take(entry)

    def leave_out(self, file: str) -> None:
        """Record that an image no longer has a label map."""
        self._write({"left_out": file})
        self.finished.pop(file, None)

    def _take(self, entry: Finished) -> None:
        """Note a finished image; one that had a label map of this name before has it no more."""
        owner = self._owners.setdefault(entry.mask, entry.file)
        if owner != entry.file:
            self.finished.pop(owner, None)
            self._owners[entry.mask] = entry.file
        self.finished[entry.file] = entry

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(content) + "\n")
        self._stream.flush()

    def _read(self, overwrite: bool) -> None:
        hint, is_other = "remove the folder, or overwrite it", False
        lines = read_text(self._path, hint).splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
                if "settings" in content:
                    is_other = content["settings"] != self._settings
                    if is_other and not overwrite:
                        raise UsageError("label maps of other settings", self._path.parent, hint)
                elif "left_out" in content:
                    self.finished.pop(content["left_out"], None)
                else:
                    self._take(Finished(**content))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number == len(lines):
                    break  # cut off when the command was killed; that image is done again
                if not overwrite:
                    where = f"{self._path}, line {number}"
                    raise UsageError("it is damaged", where, hint) from error
                is_other = True
        if is_other:
            self.replaced = [entry.mask for entry in self.finished.values()]
            self.finished.clear()
            self._owners.clear()
            self._path.unlink()
            return
        if lines and not self._path.read_bytes().endswith(b"\n"):
            # The next line must not be appended to half of one.
            kept = "".join(f"{line}\n" for line in lines[:-1])
            self._path.write_text(kept, encoding="utf-8")

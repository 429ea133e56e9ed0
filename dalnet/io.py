# SPDX-License-Identifier: Apache-2.0
"""Read files or refuse them in one sentence, write them whole or not at all, and hash them."""

import codecs
import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from dalnet.errors import UsageError

UNFINISHED = ".*.unfinished"  # what a killed process may leave of :func:`atomic_write`
_MAX_TEXT = 512 << 20  # bytes; COCO's annotations, the largest that are usual, have 450 MB


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """Turn errors of the operating system into one sentence; also a decorator.

    Raises:
        UsageError: a file or folder cannot be read or looked into.
    """
    try:
        yield
    except OSError as e:
        what = f"it cannot be read ({e.strerror})"
        hint = "give yourself the right to read it, or name another place"
        raise UsageError(what, e.filename or "", hint) from e


def require_file(path: str | Path) -> None:
    """Refuse what is there and is no file, as a pipe or a device, whose content may never end.

    Raises:
        UsageError: it is a folder, a pipe, a device or a socket.
    """
    if not os.path.isfile(path) and os.path.exists(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise UsageError(f"it is no file but {kind}", path, "name a file")


def read_bytes(path: Path, hint: str = "") -> bytes:
    """Return the content of a file.

    Raises:
        UsageError: it cannot be read, or is too large to be a text that somebody has written;
            ``hint``, half a sentence, says what to do.
    """
    require_file(path)
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        return path.read_bytes()
    except FileNotFoundError as e:
        raise UsageError("there is no such file", path, hint or "correct the path") from e
    except (OSError, ValueError) as e:
        raise UsageError(f"it cannot be read ({e})", path, hint or "restore it") from e


def read_text(path: Path, hint: str = "") -> str:
    """Return the text of a file, UTF-8 or UTF-16 with or without a byte-order mark.

    Raises:
        UsageError: it is not readable as text, or too large to be one that somebody has written;
            ``hint``, half a sentence, says what to do.
    """
    content = read_bytes(path, hint)
    try:
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except ValueError as e:
        raise UsageError(f"not readable as text ({e})", path, hint or "save it as UTF-8") from e


def read_lines(path: Path, hint: str) -> list[str]:
    """Return the lines of a text file that are not blank, without the spaces around them.

    Raises:
        UsageError: it is empty or no text; ``hint``, half a sentence, says what to do.
    """
    lines = [line.strip() for line in read_text(path, hint).splitlines()]
    if not any(lines):
        raise UsageError("it is empty", path, hint)
    return [line for line in lines if line]


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` that becomes ``path`` if the block succeeds.

    Folders are made as needed. ``durable`` waits for the disk, so that after a power cut the file
    is there, whole, or the one before it.

    Raises:
        UsageError: the file cannot be written.
    """
    # Not made of the name, which may have all the bytes that a file system allows; and unlike that
    # of any other process, also of another machine that shares the folder.
    temporary = path.with_name(f".{uuid4().hex}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _synchronize(temporary)
        os.replace(temporary, path)
        if durable:
            _synchronize(path.parent)  # the new name
    except OSError as e:
        raise UsageError(f"it cannot be written ({e})", path, "free space, or name another") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _synchronize(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; ``durable`` as in :func:`atomic_write`.

    Raises:
        UsageError: the file cannot be written.
    """
    with atomic_write(path, durable) as unfinished:
        # Names of files that are not UTF-8 keep their bytes.
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")


def cache_folder() -> Path:
    """Return the folder of the cache: ``$DALNET_CACHE`` or ``~/.cache/dalnet``."""
    return Path(os.environ.get("DALNET_CACHE") or "~/.cache/dalnet").expanduser()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()

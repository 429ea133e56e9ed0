# SPDX-License-Identifier: Apache-2.0
"""Outside files of weights: found, and read without running anything they contain."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm.models
from detectron2.utils.file_io import PathManager

import dalnet.assets  # noqa: F401  (registers dalnet://)
from dalnet.errors import UsageError


def fetch(weights: str, key: str) -> Path:
    """Return where on disk lies what ``weights`` names, downloaded where it is an address.

    Args:
        weights: a path, which need not exist, or an address that Detectron2's ``PathManager`` knows
            (``dalnet://``, ``https://``).
        key: config key that holds ``weights``, for messages.

    Raises:
        UsageError: there is nothing at the address, or no connection.
    """
    try:
        return Path(PathManager.get_local_path(weights))
    except (OSError, RuntimeError) as error:  # the latter of catalog://
        raise UsageError(
            f"{weights} cannot be fetched ({error})",
            where=key,
            hint="correct the address, or fetch the file by other means and give its path",
        ) from error


@contextmanager
def refused_with(what: str, where: object = "", hint: str = "") -> Iterator[None]:
    """Turn whatever a reader or builder raises into a ``UsageError`` that ends with its reason.

    Raises:
        UsageError: it failed.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # each reader, and each family of timm, fails with its own types
        reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
        raise UsageError(f"{what}: {reason}", where, hint) from error


def local_file(weights: str, key: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file on disk that ``weights`` names.

    Args:
        weights, key: see :func:`fetch`.
        suffixes: accepted endings.

    Raises:
        UsageError: not a file, not to be fetched, or of another type.
    """
    path = fetch(weights, key)
    if not path.is_file():
        raise UsageError(f"{weights} is not a file", key, "correct the path")
    if path.suffix not in suffixes:
        raise UsageError(f"{weights} must end in {' or '.join(suffixes)}", key, "name such a file")
    return path


def read_state(path: Path, key: str) -> dict[str, Any]:
    """Return the state dict in a ``.safetensors`` or PyTorch file (``weights_only=True``).

    Wrappings such as ``{"state_dict": ...}``, ``{"model": ...}`` and ``module.`` are taken off.

    Args:
        path: the file.
        key: config key that names it, for messages.

    Raises:
        UsageError: damaged, or it holds objects other than tensors.
    """
    with refused_with(f"{key} names it, but it cannot be read as a file of tensors", path):
        return timm.models.load_state_dict(str(path), weights_only=True)

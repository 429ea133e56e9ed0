# SPDX-License-Identifier: Apache-2.0
"""Find weight files and read them without running anything that they contain."""

import re
import textwrap
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm.models
from detectron2.utils.file_io import PathManager
from torch import Tensor

import dalnet.assets  # noqa: F401  (registers dalnet://)
from dalnet.errors import UsageError

_WEB_PAGE = "it is a web page, as a download that was refused leaves it"
# What lies where weights are meant to be, by its first bytes.
_OTHER_CONTENT = {
    # Not "<" alone, with which the header of a safetensors file may begin.
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml"), _WEB_PAGE),
    b"version https://git-lfs": "Git LFS has put a pointer in its place: run git lfs pull",
}
_HARMLESS = 1 << 28  # bytes that any archive may unfold to
_MOST_UNFOLDING = 20  # times the size of the archive


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
        raise UsageError(f"{what}: {reason_of(error, where)}", where, hint) from error


def reason_of(error: Exception, file: object = "") -> str:
    """Return what an error says, shortened, and without advice that a user cannot follow.

    Args:
        error: of a reader or builder.
        file: that was read, if it was one; what it is instead of weights says more.
    """
    if isinstance(file, str | Path) and Path(file).is_file():
        with Path(file).open("rb") as stream:
            start = stream.read(64).lstrip().lower()
        if not start:
            return "it is empty"
        for beginning, reason in _OTHER_CONTENT.items():
            if start.startswith(beginning):
                return reason
    text = str(error) or type(error).__name__
    if "weights_only" in text:
        # torch and timm advise to load the file in another way, which is never done here.
        found = re.search(r"(?:GLOBAL|globals:) ([\w.]+)", text)
        if found is None:
            return "it is damaged, or holds more than tensors"
        kind = found[1].rstrip(".")
        return f"it holds objects of {kind}, which are not loaded, as that could run code"
    return textwrap.shorten(text, 300, placeholder=" ...")


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
    refuse_unfolding(path)
    return path


def refuse_unfolding(path: str | Path) -> None:
    """Refuse a zip archive, as .pth and .npz are, that unfolds to far more than it holds.

    PyTorch and NumPy give it the memory that it asks for; weights hardly get smaller in archives.

    Raises:
        UsageError: it is such an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # left to the reader of such files
    if unfolded > max(_HARMLESS, _MOST_UNFOLDING * Path(path).stat().st_size):
        what = f"it has {Path(path).stat().st_size:,} bytes, which unfold to {unfolded:,}"
        raise UsageError(what, path, "name a file of weights as PyTorch or NumPy saves it")


def read_state(path: Path, key: str) -> dict[str, Any]:
    """Return the state dict in a ``.safetensors`` or PyTorch file (``weights_only=True``).

    Wrappings such as ``{"state_dict": ...}``, ``{"model": ...}`` and ``module.`` are taken off, of
    moving averages (``{"model_ema": ...}``) too. Several states in one file, such as
    ``{"student": ..., "teacher": ...}``, are joined, with names such as ``teacher.blocks.0``.

    Args:
        path: the file.
        key: config key that names it, for messages.

    Raises:
        UsageError: damaged, or it holds objects other than tensors, or NaN.
    """
    with refused_with(
        f"{key} names it, but it cannot be read as a file of tensors",
        path,
        "name a .safetensors file, or one that torch.save made of a state dict alone",
    ):
        state = timm.models.load_state_dict(str(path), weights_only=True)
        if any(isinstance(value, dict) for value in state.values()):
            state = _join_states(state)
    if broken := find_nan(state):
        hint = "name weights of a training that has not diverged"
        raise UsageError(f"{key} names it, but {broken} holds NaN", path, hint)
    return state


def find_nan(state: Mapping[str, Any]) -> str:
    """Return the name of the first tensor that holds NaN; empty if none does."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return next((name for name, tensor in tensors.items() if tensor.isnan().any()), "")


def _join_states(state: dict[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            inner = timm.models.clean_state_dict(_join_states(value))
            joined |= {f"{name}.{key}": item for key, item in inner.items()}
        elif isinstance(value, Tensor):
            joined[name] = value
    return joined


def weights_path(path: Path) -> Path:
    """Return the path of a file of weights to write, with ``.safetensors`` added if it is missing.

    Added, not put in place of a suffix: in ``vit_0.5`` there is none.
    """
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def find_part(state: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the part of a state dict that a model's ``names`` are found in, by these names.

    Args:
        state: perhaps of a larger model, whose names for the part share a prefix, such as
            ``module.encoder.`` or ``teacher.backbone.``.
        names: of the model's own state dict.

    Returns:
        What has the prefix behind which most of the names are found, without it; of equals, that of
        a moving average. All of ``state`` where no name is found.
    """
    found: Counter[str] = Counter()
    for key in state:
        starts = [0, *(place + 1 for place, letter in enumerate(key) if letter == ".")]
        found.update(key[:start] for start in starts if key[start:] in names)
    averages = ("teacher", "ema")
    prefix = max(found, key=lambda p: (found[p], any(a in p for a in averages)), default="")
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}

# SPDX-License-Identifier: Apache-2.0
"""Find, read and hash checkpoint files, which are never unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file

from dalnet.errors import UsageError
from dalnet.io import require_file, sha256
from dalnet.modeling.weight_files import fetch, find_nan, reason_of, refuse_unfolding

from .history import read_last, read_saved

KEY = "MODEL.WEIGHTS"  # the config key that names a checkpoint
HINT = "name a checkpoint that a training has saved"
INFO = "dalnet"  # where a checkpoint's dict, or its metadata, holds its CheckpointInfo
BUNDLE_FILE = "model.safetensors"  # of a bundle, which "dalnet export" writes
HUB = "hf-hub:"  # before the id of a bundle on the Hugging Face hub, as timm writes it


def checkpoint_hash(weights: str) -> str:
    """Return the SHA-256 of the file that ``MODEL.WEIGHTS`` names, hexadecimal.

    Raises:
        UsageError: an address that nothing can be fetched from.
    """
    return sha256(fetch(weights, KEY))


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path names.

    Args:
        path: the file itself, the folder of a run (its newest one) or of a bundle, or
            ``hf-hub:OWNER/NAME``, a bundle that is downloaded once.

    Raises:
        UsageError: there is none.
    """
    if str(path).startswith(HUB):
        return _download(str(path))
    found = fetch(str(path), KEY)
    if found.is_dir():
        newest, bundle = found / "last_checkpoint", found / BUNDLE_FILE
        if bundle.is_file() and not newest.is_file():
            return bundle
        name = read_last(found) if newest.is_file() else "model_final.pth"
        if newest.is_file() and not (found / name).is_file():
            others = ", ".join(sorted(file.name for file in found.glob("model_*.pth")))
            hint = f"name one of {others}" if others else HINT
            raise UsageError(f"its last_checkpoint names {name!r}, which is not there", path, hint)
        saved = next((one for one in read_saved(found) if one.file == name), None)
        if saved is not None and (damage := saved.damage(found)):
            hint = "name another checkpoint of it, or the file itself to take it as it is"
            raise UsageError(f"its newest checkpoint, {name}, {damage}", path, hint)
        found = found / name
    if not found.is_file():
        raise UsageError("it is no checkpoint and no run folder with one", path, HINT)
    return found


def _download(address: str) -> Path:
    try:
        return Path(hf_hub_download(address.removeprefix(HUB), BUNDLE_FILE))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = f"it cannot be fetched from the Hugging Face hub ({type(error).__name__})"
        raise UsageError(what, address, "check the name and the connection") from error


def read_file(filename: str) -> dict[str, Any]:
    """Return what a file holds; a state dict alone is put under ``model``.

    Raises:
        UsageError: it cannot be read without unpickling, or is no checkpoint.
    """
    require_file(filename)
    refuse_unfolding(filename)
    try:
        if filename.endswith(".safetensors"):
            data = _read_safetensors(filename)
        else:
            data = torch.load(filename, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types, and pass on those of bad content
        what = f"it is no checkpoint that can be read safely: {reason_of(error, filename)}"
        raise UsageError(what, filename, f"{HINT}, or a .safetensors file") from error
    data = data if isinstance(data, dict) and "model" in data else {"model": data}
    fault = _fault_of_state(data["model"])
    if fault:
        raise UsageError(f"it is no checkpoint: {fault}", filename, HINT)
    return data


def _read_safetensors(filename: str) -> dict[str, Any]:
    """Return the tensors, and what a bundle says about itself in the file's metadata."""
    with safe_open(filename, "pt") as file:
        about = (file.metadata() or {}).get(INFO)
    data: dict[str, Any] = {"model": load_file(filename)}
    return data | {INFO: json.loads(about)} if about else data


def _fault_of_state(state: object) -> str:
    """Return why ``state`` is not the tensors of a model by their names; empty if it is."""
    if not isinstance(state, dict):
        return f"where a model's tensors belong it holds a {type(state).__name__}"
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            return f"under {key!r} it holds a {type(value).__name__} instead of a named tensor"
    broken = find_nan(state)
    # Each comparison with NaN is false: the predictions would look like those of a model.
    return f"{broken} holds NaN, as after a training that has diverged" if broken else ""

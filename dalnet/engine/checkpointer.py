# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that either fit the model or are refused; nothing is ever unpickled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors.torch import load_file

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent, sha256
from dalnet.modeling.weight_files import fetch, refused_if_unreadable

_KEY = "MODEL.WEIGHTS"


def checkpoint_hash(weights: str) -> str:
    """SHA-256 of the file that ``MODEL.WEIGHTS`` names by a path or an address, hexadecimal.

    Raises:
        UsageError: an address that nothing can be fetched from.
    """
    return sha256(fetch(weights, _KEY))


class DALNetCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` that refuses what Detectron2 would only warn about."""

    # Buffers that a training started from another one keeps; None while everything has to fit.
    _kept: Sequence[str] | None = None

    def start_from(self, path: str, keep: Sequence[str] = ()) -> None:
        """Load the encoder and whatever else fits, as the beginning of another training.

        What does not fit, such as the classifiers of other classes, stays as it was built and is
        named in the log.

        Args:
            path: the checkpoint.
            keep: names of buffers that stay as they were built in any case.

        Raises:
            UsageError: the file is missing, unreadable or of another encoder, or texts that are to
                come from it do not.
        """
        self._kept = keep
        try:
            self.resume_or_load(path, resume=False)
        finally:
            self._kept = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint; ``path`` may be empty for none.

        Raises:
            UsageError: the file is missing, unreadable or does not fit the model.
        """
        if path and not fetch(path, _KEY).is_file():
            raise UsageError(f"{_KEY} {path} does not exist; give the path of a checkpoint.")
        self._loading = path
        try:
            return super().load(path, *args, **kwargs)
        except (KeyError, ValueError) as error:
            # Optimizer and scheduler complain in these when their parameters differ.
            raise UsageError(
                f"{path} cannot be resumed with this config ({error}); resume with the config it "
                "was trained with, or start afresh with MODEL.WEIGHTS and another OUTPUT_DIR."
            ) from error

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth whole or not at all: an interrupted save loses nothing.

        Raises:
            UsageError: the folder is not writable or the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        path = Path(self.save_dir, f"{name}.pth")
        try:
            with complete_or_absent(path) as temporary:
                torch.save(data, temporary)
        except RuntimeError as error:
            # What torch makes of a full disk.
            raise UsageError(f"cannot write {path} ({error}): free the place.") from error
        self.logger.info(f"Saved checkpoint to {path}")
        self.tag_last_checkpoint(f"{name}.pth")

    def _load_file(self, filename: str) -> dict:
        with refused_if_unreadable(
            f"{filename} is no checkpoint that can be read safely (.pth with tensors only, or "
            ".safetensors)"
        ):
            if filename.endswith(".safetensors"):
                return {"model": load_file(filename)}
            data = torch.load(filename, map_location="cpu", weights_only=True)
        data = data if isinstance(data, dict) and "model" in data else {"model": data}
        fault = _fault_of_state(data["model"])
        if fault:
            raise UsageError(
                f"{filename} is no checkpoint: {fault}; name one that a training has saved."
            )
        return data

    def _load_model(self, checkpoint: dict) -> Any:
        kept = self._kept or ()
        for key in kept:
            checkpoint["model"].pop(key, None)
        incompatible = super()._load_model(checkpoint)
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in kept]
        needed = ("",) if self._kept is None else ("backbone.", "text_")
        wrong = [
            f"{key} has shape {tuple(a)}, not {tuple(b)}"
            for key, a, b in incompatible.incorrect_shapes
            if key.startswith(needed)
        ]
        wrong += [f"{k} is missing" for k in incompatible.missing_keys if k.startswith(needed)]
        if self._kept is None:
            # Parts that the model lacks altogether, as texts without alignment, change nothing.
            parts = tuple(f"{name}." for name, _ in self.model.named_children())
            left = [k for k in incompatible.unexpected_keys if k.startswith(parts)]
            wrong += [f"the model has no {key}" for key in left]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UsageError(
                f"{self._loading} does not fit the config: {wrong[0]}{more}; use the config it was "
                "trained with."
            )
        return incompatible


def _fault_of_state(state: Any) -> str:
    """What keeps ``state`` from being the tensors of a model by their names; empty for nothing."""
    if not isinstance(state, dict):
        return f"where a model's tensors belong it holds a {type(state).__name__}"
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            return f"under {key!r} it holds a {type(value).__name__} instead of a named tensor"
    return ""

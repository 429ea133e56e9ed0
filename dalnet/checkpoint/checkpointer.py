# SPDX-License-Identifier: Apache-2.0
"""Save checkpoints, and load them or refuse them in one sentence."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from dalnet.config import class_difference
from dalnet.errors import UsageError
from dalnet.io import atomic_write
from dalnet.modeling.weight_files import fetch

from .files import INFO, KEY, read_file
from .history import SavedCheckpoint, add_saved, has_saved, newest_good
from .info import CheckpointInfo

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` that refuses what Detectron2 would only warn about."""

    # Buffers that another training keeps when it starts from a checkpoint; None: all has to fit.
    _kept: Sequence[str] | None = None

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        info: CheckpointInfo | None = None,
        keep: int | None = None,
    ) -> None:
        """
        Args:
            model: to be loaded and saved, perhaps wrapped for data parallelism.
            save_dir: folder of the checkpoints; empty for none.
            info: written with the weights.
            keep: how many checkpoints of a training stay, the newest ones, 0 for all; None where
                files are saved one by one, and not listed (:mod:`dalnet.checkpoint.history`).
        """
        super().__init__(model, save_dir)
        self._info = info
        self._keep = keep

    def start_from(self, path: str, keep: Sequence[str] = ()) -> None:
        """Load what fits, the encoder at least, as the beginning of another training.

        What belongs to single classes, as rows of classifiers, is matched by their names. The rest
        stays as it was built and is named in the log, and so do the buffers ``keep``, as the texts
        of this training's classes. An empty path loads nothing.

        Raises:
            UsageError: the file is missing, unreadable or of another encoder, or buffers that are
                to come from it are missing or of other classes.
        """
        self._kept = keep
        try:
            self.resume_or_load(path, resume=False)
        finally:
            self._kept = None

    def has_checkpoint(self) -> bool:
        """Return whether the folder holds a checkpoint to go on from."""
        return has_saved(Path(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """Return the newest checkpoint in the folder that is not damaged.

        Raises:
            UsageError: all are damaged.
        """
        return str(newest_good(Path(self.save_dir)))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load the weights of a checkpoint and return what else it holds.

        ``path`` may be empty for none.

        Raises:
            UsageError: the file is missing, unreadable or does not fit the model.
        """
        if path and not fetch(path, KEY).is_file():
            raise UsageError(f"{path} does not exist", KEY, "give the path of a checkpoint")
        self._path = path
        return super().load(path, *args, **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth whole or not at all: an interrupted save loses nothing.

        Args:
            name: of the file, without its suffix.
            kwargs: what is saved beside the weights; ``iteration`` is noted in the list of
                checkpoints.

        Raises:
            UsageError: the folder is not writable or the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        if self._info is not None:
            data[INFO] = asdict(self._info)
        path = Path(self.save_dir, f"{name}.pth")
        try:
            with atomic_write(path, durable=True) as temporary:
                torch.save(data, temporary)
        except RuntimeError as error:  # torch raises it where the disk is full
            raise UsageError(f"it cannot be written ({error})", path, "free space") from error
        logger.info("Saved checkpoint to %s", path)
        if self._keep is None:
            self.tag_last_checkpoint(path.name)
            return
        saved = SavedCheckpoint.of_file(path, kwargs.get("iteration", -1))
        add_saved(Path(self.save_dir), saved, self._keep)

    def _load_file(self, filename: str) -> dict:
        data = read_file(filename)
        class_names = None
        if INFO in data:
            info = CheckpointInfo.from_dict(data.pop(INFO), filename)
            self._check_info(info)
            class_names = info.class_names
            if self._kept is None and self._info is not None:
                self._info = self._info.started_as(info)
        elif self._kept is None and hasattr(self.model, "class_names"):
            logger.warning("%s does not name its classes: those of the config are taken.", filename)
        if self._kept is not None:
            self._take_class_rows(data["model"], class_names)
        return data

    def _take_class_rows(self, state: dict[str, Any], class_names: Sequence[str] | None) -> None:
        """Match what a checkpoint has for each class with this training's classes, by name."""
        if not getattr(self.model, "class_rows", None):
            return
        taken = self.model.take_class_rows(state, class_names)
        new = [name for name in self.model.class_names[1:] if name not in taken]
        logger.info(
            "Classifiers of classes: taken over by name for %s; begun anew for %s.",
            ", ".join(taken) or "none",
            ", ".join(new) or "none",
        )

    def _check_info(self, info: CheckpointInfo) -> None:
        """Compare system and classes, by name and order: as many do not make them the same."""
        system = type(self.model).__name__
        if self._kept is None and info.system != system:
            what = f"it is a model of the system {info.system}, not of {system}"
            hint = f"set MODEL.META_ARCHITECTURE to {info.system}, with its config"
            raise UsageError(what, self._path, hint)
        own = getattr(self.model, "class_names", info.class_names)
        # Another training may know other classes, unless it takes over their texts.
        rebuilt = set(getattr(self.model, "rebuilt", ())) & self.model.state_dict().keys()
        keeps_classes = getattr(self.model, "keeps_classes", False)
        takes_all = keeps_classes or self._kept is None or rebuilt - set(self._kept)
        difference = class_difference(info.class_names, own) if takes_all else ""
        if difference:
            what = f"it was trained on other classes than the config's: {difference}"
            hint = "use the data set it was trained on as DATASETS.TRAIN"
            raise UsageError(what, self._path, hint)

    def _load_model(self, checkpoint: dict) -> Any:
        kept = self._kept or ()
        for key in kept:
            checkpoint["model"].pop(key, None)
        incompatible = super()._load_model(checkpoint)
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in kept]
        needed = ("",) if self._kept is None else self.model.required
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
            what = f"it does not fit the config: {wrong[0]}{more}"
            raise UsageError(what, self._path, "use the config it was trained with")
        return incompatible

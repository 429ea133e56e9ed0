# SPDX-License-Identifier: Apache-2.0
"""What every pre-training of an encoder shares: where it runs, how it goes on, what it leaves."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import ParamScheduler
from safetensors.torch import save_file
from torch import nn

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

from .checkpointer import DALNetCheckpointer

logger = logging.getLogger(__name__)

_LOSS_WINDOW = 100  # iterations that the reported loss is the mean of


@dataclass(frozen=True)
class PretrainingPlan:
    """Where a pre-training runs and what it leaves; nothing here changes the result.

    Attributes:
        output: ``.safetensors`` file of the encoder.
        resume: go on from the newest checkpoint, if there is one.
        log_every: iterations between two lines of progress.
        save_every: iterations between two checkpoints.
    """

    output: Path
    resume: bool = False
    log_every: int = 20
    save_every: int = 200

    def __post_init__(self) -> None:
        """Refuse impossible values with a :class:`UsageError`."""
        expect_positive(log_every=self.log_every, save_every=self.save_every)
        if self.output.suffix != ".safetensors":
            raise UsageError(f"--output is {self.output}; its name must end in .safetensors.")

    @property
    def folder(self) -> Path:
        """Folder of checkpoints, log and metrics, named as the output."""
        return self.output.with_suffix("")


def expect_positive(**values: int) -> None:
    """Refuse a value below 1 with a :class:`UsageError` that names its option."""
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")


def open_log(folder: Path) -> None:
    """Log to the screen and to ``log.txt`` in the folder, which is made as needed.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with _writing_to(folder):
        for name in ("dalnet", "detectron2"):
            setup_logger(str(folder), name=name)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be the folder of log and checkpoints ({error.strerror}): make it "
            "writable or name another."
        ) from error


class Batches(Protocol):
    """Endless batches that can begin anywhere.

    Attributes:
        first: number of the first batch, to be set before it is asked for.
    """

    first: int

    def __iter__(self) -> Iterator[Any]:
        """Begin with the batch of number ``first``."""


class Pretrainer(SimpleTrainer):
    """Detectron2's trainer, which also saves what makes an interrupted run go on as if it was not.

    Attributes:
        loss: mean of the last hundred iterations.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        optimizer: torch.optim.Optimizer,
        identity: dict[str, Any],
    ) -> None:
        """
        Args:
            model: returns the loss of a batch, or a dict of losses.
            batches: one for each iteration.
            optimizer: of the model's parameters.
            identity: plain values that decide the result; a run of other ones is not gone on with.
        """
        super().__init__(model, batches, optimizer)
        self.batches, self.identity, self.loss = batches, identity, float("nan")

    def after_step(self) -> None:
        """Keep the loss up to date for the checkpoint."""
        self.loss = float(self.storage.history("total_loss").avg(_LOSS_WINDOW))
        super().after_step()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimizer, random numbers, loss and the arguments."""
        own = {"recipe": self.identity, "rng": torch.get_rng_state(), "loss": self.loss}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the saved iteration.

        Raises:
            UsageError: it was another training.
        """
        saved, own = state_dict["recipe"], self.identity
        changed = [f"{key} {value}" for key, value in saved.items() if own.get(key) != value]
        if changed:
            raise UsageError(
                f"The checkpoint belongs to a run with {', '.join(changed)}: repeat these, or "
                "leave out --resume."
            )
        super().load_state_dict(state_dict)
        torch.set_rng_state(state_dict["rng"])
        self.loss = state_dict["loss"]
        self.batches.first = self.start_iter = self.iter + 1
        logger.info("resumed after iteration %d", self.start_iter)


def run_pretraining(
    trainer: Pretrainer,
    schedule: ParamScheduler,
    iterations: int,
    plan: PretrainingPlan,
    extra_hooks: Sequence[HookBase] = (),
) -> None:
    """Do all iterations, or with ``plan.resume`` those that are left.

    Args:
        trainer: with a fresh model and optimizer.
        schedule: factor of the learning rate over 0..1 of the training.
        iterations: of the whole training.
        plan: where checkpoints, log and metrics go, and how often.
        extra_hooks: called after the checkpoints are written, before the metrics are.

    Raises:
        UsageError: the folder cannot be written to, or has a checkpoint of another run.
    """
    checkpointer = DALNetCheckpointer(trainer.model, str(plan.folder), trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=schedule),
            hooks.PeriodicCheckpointer(checkpointer, plan.save_every, max_to_keep=1),
            *extra_hooks,
            hooks.PeriodicWriter(_writers(iterations, plan.folder), plan.log_every),
        ]
    )
    if plan.resume:
        checkpointer.resume_or_load("", resume=True)
    if trainer.start_iter < iterations:
        trainer.train(trainer.start_iter, iterations)


def _writers(iterations: int, folder: Path) -> list[EventWriter]:
    with _writing_to(folder):
        return [CommonMetricPrinter(iterations), JSONWriter(str(folder / "metrics.json"))]


def save_encoder(vit: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Save the encoder as timm names its parts.

    Raises:
        UsageError: the file cannot be written.
    """
    state = {key: value.to("cpu", dtype).contiguous() for key, value in vit.state_dict().items()}
    with complete_or_absent(path) as temporary:
        save_file(state, temporary)

# SPDX-License-Identifier: Apache-2.0
"""Take one step of the optimizer, from one or several parts of a batch."""

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dalnet.errors import UsageError
from dalnet.modeling.losses.counts import Parts

from .generators import generator_states, preserved_generators, set_generator_states
from .interruption import largest

logger = logging.getLogger(__name__)


class StepTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with accumulation and mixed precision.

    The gradient is the mean of those of the parts; losses that divide by a number of pairs, pixels
    or views divide by that of the whole batch, where ``counts_parts`` says so. A step whose losses
    or gradients are not finite is left out.

    Attributes:
        is_updating: whether the optimizer is changing the weights; after a failure they are then
            neither those before the step nor those after it.
    """

    is_updating = False

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        parts: int = 1,
        counts_parts: bool = True,
        amp_dtype: torch.dtype | None = None,
        max_nonfinite: int = 0,
    ) -> None:
        """
        Args:
            model: returns a dict of scalar losses for a list of images.
            data_loader: yields lists of images.
            optimizer: takes one step for each list.
            parts: how many parts a list is cut into, one after the other.
            counts_parts: whether several parts first run without gradient, to count over all of
                them; else each of them counts for itself.
            amp_dtype: of mixed precision on CUDA; None for none.
            max_nonfinite: how many steps in a row may be left out.
        """
        super().__init__(model, data_loader, optimizer)
        self.parts = parts
        self.counts_parts = counts_parts
        self.amp_dtype = amp_dtype
        self.max_nonfinite = max_nonfinite
        self.left_out = 0  # steps in a row
        # bfloat16 has the range of float32, so there is nothing to scale.
        self.scaler = torch.amp.GradScaler("cuda", enabled=amp_dtype == torch.float16)

    def run_step(self) -> None:
        """Read a batch, sum the gradients of its parts, and take a step.

        Raises:
            UsageError: losses or gradients were not finite in too many steps in a row.
        """
        start = time.perf_counter()
        images = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        # Lets CUDA graphs (MODEL.VIT.COMPILE) write over the results of the last step.
        torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad()
        size = len(images) // self.parts
        pieces = [images[start : start + size] for start in range(0, len(images), size)]
        parts = Parts(self.parts)
        if self.parts > 1 and self.counts_parts:
            states = generator_states()
            self._count(pieces, parts)
            with preserved_generators():
                set_generator_states(states)  # the same random numbers once more
                totals = self._sum_gradients(pieces, parts)
        else:
            totals = self._sum_gradients(pieces, parts)
        wrong = self._nonfinite(totals)
        if largest(len(wrong)):
            self._leave_out(wrong, images)
            return
        self.left_out = 0
        self.is_updating = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.is_updating = False
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            # Each step that it leaves out halves the scale.
            what = f"gradients are not finite at iteration {self.iter}, however they are scaled"
            hint = "train in bfloat16, or set SOLVER.AMP.ENABLED to False to see which"
            raise UsageError(what, "SOLVER.AMP.DTYPE", hint)
        self._write_metrics(totals, data_time)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and of the loss scaling."""
        own = {"grad_scaler": self.scaler.state_dict(), "left_out": self.left_out}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; one without loss scaling starts it anew."""
        super().load_state_dict(state_dict)
        self.left_out = state_dict["left_out"]
        if state_dict.get("grad_scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state_dict["grad_scaler"])

    def _count(self, pieces: Sequence[list[dict]], parts: Parts) -> None:
        """Let the parts count, without a change to buffers such as a BatchNorm's statistics."""
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        for number, piece in enumerate(pieces):
            with parts.counting(number):
                self._losses(piece)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        parts.add_up()

    def _sum_gradients(self, pieces: Sequence[list[dict]], parts: Parts) -> dict[str, Tensor]:
        """Sum the gradients of all parts, and return the losses of the whole batch."""
        totals: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            is_last = number == self.parts - 1
            with parts.training(number), self._sums_gradients_locally(not is_last):
                losses = self._losses(piece)
                self.scaler.scale(torch.stack([*losses.values()]).sum()).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + loss.detach()
        return totals

    def _losses(self, images: list[dict]) -> dict[str, Tensor]:
        """Return the losses of a part, each divided by the number of parts."""
        with torch.autocast("cuda", self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.model(images)
        return losses if self.parts == 1 else {k: v / self.parts for k, v in losses.items()}

    def _sums_gradients_locally(self, locally: bool) -> contextlib.AbstractContextManager:
        """Let processes exchange gradients once a step, after the last part."""
        if locally and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _nonfinite(self, losses: Mapping[str, Tensor]) -> list[str]:
        """Return what is not finite, with its value: losses, or else the first gradient."""
        gradients = {
            f"the gradient of {name}": parameter.grad.norm()
            for name, parameter in self.model.named_parameters()
            # Scaled ones may overflow: the scaler then leaves the step out itself.
            if parameter.grad is not None and not self.scaler.is_enabled()
        }
        # One wait for the GPU, when all of the step's work but the update is under way.
        found = torch.stack([value.float() for value in (*losses.values(), *gradients.values())])
        values = dict(zip((*losses, *gradients), found.tolist(), strict=True))
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        shown = [name for name in wrong if name in losses] or wrong[:1]
        return [f"{name} is {values[name]}" for name in shown]

    def _leave_out(self, wrong: Sequence[str], images: Sequence[Mapping[str, Any]]) -> None:
        """Leave a step out with a warning, or stop."""
        self.left_out += 1
        names = ", ".join(str(image.get("image_id", image.get("file_name"))) for image in images)
        own = f"{', '.join(wrong)} (images {names})" if wrong else ""
        found = "; ".join(text for text in comm.all_gather(own) if text)
        if self.left_out > self.max_nonfinite:
            raise UsageError(
                f"{self.left_out} steps in a row had to be left out, the last one at iteration "
                f"{self.iter}: {found}",
                "SOLVER.MAX_NONFINITE_STEPS",
                "look at these images, or lower SOLVER.BASE_LR",
            )
        logger.warning("Step left out at iteration %d: %s", self.iter, found)

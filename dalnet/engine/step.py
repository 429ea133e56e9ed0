# SPDX-License-Identifier: Apache-2.0
"""Take one step of the optimizer, from one or several parts of a batch."""

import contextlib
import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader


class StepTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with accumulation and mixed precision.

    The gradient is the mean of those of the parts, as if each were a batch of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: DataLoader,
        optimizer: torch.optim.Optimizer,
        parts: int = 1,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            model: returns a dict of scalar losses for a list of images.
            data_loader: yields lists of images.
            optimizer: takes one step for each list.
            parts: how many parts a list is cut into, one after the other.
            amp_dtype: of mixed precision on CUDA; None for none.
        """
        super().__init__(model, data_loader, optimizer)
        self.parts = parts
        self.amp_dtype = amp_dtype
        # bfloat16 has the range of float32, so there is nothing to scale.
        self.scaler = torch.amp.GradScaler("cuda", enabled=amp_dtype == torch.float16)

    def run_step(self) -> None:
        """Read a batch, sum the gradients of its parts, and take a step."""
        start = time.perf_counter()
        images = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        # Lets CUDA graphs (MODEL.VIT.COMPILE) write over the results of the last step.
        torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad()
        size = len(images) // self.parts
        totals: dict[str, torch.Tensor] = {}
        for number in range(self.parts):
            is_last = number == self.parts - 1
            with self._sums_gradients_locally(not is_last):
                losses = self._losses(images[number * size : (number + 1) * size])
                self.scaler.scale(torch.stack([*losses.values()]).sum()).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + loss.detach()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Reading the losses waits for the GPU, so it comes when all of its work is under way.
        self._write_metrics(totals, data_time)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer and of the loss scaling."""
        return {**super().state_dict(), "grad_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; one without loss scaling starts it anew."""
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state_dict["grad_scaler"])

    def _losses(self, images: list[dict]) -> dict[str, torch.Tensor]:
        """Return the losses of a part, each divided by the number of parts."""
        with torch.autocast("cuda", self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.model(images)
        return losses if self.parts == 1 else {k: v / self.parts for k, v in losses.items()}

    def _sums_gradients_locally(self, locally: bool) -> contextlib.AbstractContextManager:
        """Let processes exchange gradients once a step, after the last part."""
        if locally and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

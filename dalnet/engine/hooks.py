# SPDX-License-Identifier: Apache-2.0
"""Pictures of the training in TensorBoard."""

import torch.nn.functional as F
from detectron2.engine import HookBase
from detectron2.utils.comm import is_main_process
from torch.nn.parallel import DistributedDataParallel

from dalnet.data.datasets.catalog import class_table
from dalnet.figures.training_image import training_strip


class SnapshotHook(HookBase):
    """Every ``period`` iterations shows photograph, CAM, pseudo label and prediction.

    Needs the segmentation losses to be active: before, there is no pseudo label to show.
    """

    def __init__(self, period: int, dataset_name: str) -> None:
        """Show a snapshot every ``period`` iterations, in the colours of ``dataset_name``."""
        self.period = period
        _, self.colors = class_table(dataset_name)

    def before_train(self) -> None:
        """Find the model behind the data-parallel wrapper."""
        model = self.trainer.model
        self.model = model.module if isinstance(model, DistributedDataParallel) else model

    def before_step(self) -> None:
        """Ask the model to keep what it computes, if a picture is due."""
        self.model.keep_snapshot = is_main_process() and (self.trainer.iter + 1) % self.period == 0

    def after_step(self) -> None:
        """Draw what the model kept."""
        if not self.model.snapshot:
            return
        kept, self.model.snapshot = self.model.snapshot, {}
        size = kept["pixels"].shape[-2:]
        logits = F.interpolate(kept["logits"][None], size=size, mode="bilinear")
        strip = training_strip(
            kept["pixels"], kept["cam"], kept["pseudo_label"], logits[0].argmax(0), self.colors
        )
        self.trainer.storage.put_image("photo | CAM | pseudo label | prediction", strip)

# SPDX-License-Identifier: Apache-2.0
"""Detectron2's ``DefaultTrainer`` with DALNet's data, optimizer, schedule and evaluation."""

import logging
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.engine.train_loop import HookBase
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.utils.data import DataLoader

from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.build import TrainLoader
from dalnet.errors import UsageError
from dalnet.evaluation import build_evaluator
from dalnet.evaluation.evaluator import TableEvaluator

from .checkpointer import DALNetCheckpointer
from .config_checks import check_crop_size
from .hooks import SnapshotHook
from .optimizer import build_optimizer


class DALNetTrainer(DefaultTrainer):
    """Trains and evaluates what the config describes."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything that ``cfg`` describes."""
        super().__init__(cfg)
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "bfloat16":
            # It has the range of float32, so there is nothing to scale; and the scaler's question
            # whether a gradient is infinite would have the GPU waited for.
            self._trainer.grad_scaler = torch.amp.GradScaler(enabled=False)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model and log its size rather than its whole structure."""
        model = build_model(cfg)
        check_crop_size(cfg, model.backbone.patch_size)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logging.getLogger(__name__).info(f"{type(model).__name__}, {count / 1e6:.1f} M parameters")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW in two groups, see :mod:`dalnet.engine.optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Detectron2's schedules and ``WarmupPolyLR`` of its DeepLab project."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        """See :func:`dalnet.data.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """See :func:`dalnet.data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> TableEvaluator:
        """See :func:`dalnet.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, with safe checkpoints, and the pictures of the training."""
        # Replaced here because DefaultTrainer makes its own just before it asks for the hooks.
        self.checkpointer = DALNetCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        hooks = super().build_hooks()
        if self.cfg.VIS_PERIOD > 0:
            # Before the writers, which come last.
            hooks.insert(-1, SnapshotHook(self.cfg.VIS_PERIOD, self.cfg.DATASETS.TRAIN[0]))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in ``OUTPUT_DIR``, or start a new one from ``MODEL.WEIGHTS``.

        A resumed run follows the length that its config now states, and goes on in the order of
        the images; what is drawn besides, as crops, is drawn anew. A new one takes what fits of
        ``MODEL.WEIGHTS``; its texts are those of its own classes.

        Raises:
            UsageError: the weights are missing, unreadable, or of another encoder, or the run is
                longer already than its config states.
        """
        if not (resume and self.checkpointer.has_checkpoint()):
            computed = self.cfg.MODEL.CLIP.SOURCE != "checkpoint"
            texts = ("text_fg", "text_bg") if computed else ()
            self.checkpointer.start_from(self.cfg.MODEL.WEIGHTS, keep=texts)
            return
        super().resume_or_load(resume)
        if self.start_iter > self.max_iter:
            raise UsageError(
                f"The run in {self.cfg.OUTPUT_DIR} has {self.start_iter} iterations already, more "
                f"than SOLVER.MAX_ITER {self.max_iter}: raise that, or evaluate with --eval-only."
            )
        self._trainer.data_loader.first = self.start_iter
        if self.cfg.SEED >= 0:
            # The generators stand where they stood at iteration 0: crops would repeat themselves.
            seed_all_rng(self.cfg.SEED + comm.get_rank() + self.start_iter)
        if hasattr(self.scheduler, "max_iters"):
            # The states bring back the length of the interrupted run and the rate it ended with.
            self.scheduler.max_iters = self.max_iter
            groups = self.scheduler.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
                group["lr"] = rate

    def train(self) -> dict | None:
        """Train, and return the results of the last evaluation.

        Raises:
            UsageError: a split of ``DATASETS.TEST`` cannot be evaluated.
        """
        for name in self.cfg.DATASETS.TEST:
            # Said now, and not once the training is over.
            self.build_test_loader(self.cfg, name)
            self.build_evaluator(self.cfg, name)
        super().train()
        return getattr(self, "_last_eval_results", None)


def load_model(cfg: CfgNode, resume: bool = False) -> nn.Module:
    """Build the model with ``MODEL.WEIGHTS`` or, with ``resume``, ``OUTPUT_DIR``'s newest weights.

    Raises:
        UsageError: there are no weights, or they do not fit.
    """
    model = DALNetTrainer.build_model(cfg)
    checkpointer = DALNetCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise UsageError(
            f"There is no checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR}) to go on with; train first, "
            "or give one as MODEL.WEIGHTS."
            if resume
            else "There is no model to load: give its checkpoint as MODEL.WEIGHTS."
        )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def evaluate(cfg: CfgNode, resume: bool) -> dict:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the newest checkpoint in ``OUTPUT_DIR``.

    Raises:
        UsageError: there are no weights.
    """
    results = DALNetTrainer.test(cfg, load_model(cfg, resume))
    comm.synchronize()
    return results

# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate by Detectron2's ``DefaultTrainer``, with DALNet's data and optimizer."""

import logging
import weakref

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.engine.train_loop import HookBase
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from dalnet.checkpoint import Checkpointer, CheckpointInfo, load_model
from dalnet.config import installed_systems
from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.loaders import ResumableLoader
from dalnet.errors import UsageError
from dalnet.evaluation import build_evaluator
from dalnet.modeling.meta_arch.segmentor import amp_dtype

from .optimizer import build_lr_scheduler, build_optimizer
from .step import StepTrainer


class Trainer(DefaultTrainer):
    """Trains and evaluates the system that the config describes."""

    _trainer: SimpleTrainer

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything that ``cfg`` describes."""
        super().__init__(cfg)
        plain = self._trainer
        self._trainer = StepTrainer(
            plain.model,
            plain.data_loader,
            plain.optimizer,
            parts=cfg.SOLVER.ACCUMULATION_STEPS,
            amp_dtype=amp_dtype(cfg) if cfg.SOLVER.AMP.ENABLED else None,
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model and log its size rather than its whole structure."""
        model = build_model(cfg)
        _check_view_sizes(cfg, getattr(model.backbone, "patch_size", 1))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logging.getLogger(__name__).info(f"{type(model).__name__}, {count / 1e6:.1f} M parameters")
        return model

    # DefaultTrainer asks for its parts by these names.
    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_test_loader = staticmethod(build_test_loader)
    build_evaluator = staticmethod(build_evaluator)

    @staticmethod
    def build_train_loader(cfg: CfgNode) -> ResumableLoader:
        """Return the system's own loader, or see :func:`dalnet.data.build_train_loader`."""
        system = installed_systems()[cfg.MODEL.META_ARCHITECTURE]
        return (system.build_train_loader or build_train_loader)(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        """Return Detectron2's hooks, with checkpoints that describe themselves."""
        # Replaced here, as DefaultTrainer makes its own just before it asks for the hooks.
        self.checkpointer = Checkpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            info=CheckpointInfo.of_training(self.cfg),
            trainer=weakref.proxy(self),
        )
        return super().build_hooks()

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in ``OUTPUT_DIR``, or start a new one from ``MODEL.WEIGHTS``.

        A resumed run follows the length that its config now states, and goes on in the order of
        the images; other random numbers, as those of crops, are drawn anew. A new run takes what
        fits of ``MODEL.WEIGHTS``; its texts are those of its own classes, unless
        ``MODEL.CLIP.SOURCE`` is "checkpoint".

        Raises:
            UsageError: the weights are missing, unreadable, or of another encoder, or the run is
                longer already than its config states.
        """
        if not (resume and self.checkpointer.has_checkpoint()):
            texts_are_taken = self.cfg.MODEL.CLIP.SOURCE == "checkpoint"
            keep = () if texts_are_taken else self.checkpointer.model.rebuilt
            self.checkpointer.start_from(self.cfg.MODEL.WEIGHTS, keep)
            return
        super().resume_or_load(resume)
        if self.start_iter > self.max_iter:
            what = f"it is {self.max_iter}, but the run in OUTPUT_DIR has {self.start_iter} already"
            raise UsageError(what, "SOLVER.MAX_ITER", "raise it, or only evaluate the run")
        self._trainer.data_loader.start_at(self.start_iter)
        if self.cfg.SEED >= 0:
            # Without new seeds the generators would repeat the numbers of the first iterations.
            seed_all_rng(self.cfg.SEED + comm.get_rank() + self.start_iter)
        if hasattr(self.scheduler, "max_iters"):
            # The state holds the length of the interrupted run, and the rate that it ended with.
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
            # Built here for their refusals, which would otherwise come after the training.
            self.build_test_loader(self.cfg, name)
            self.build_evaluator(self.cfg, name)
        super().train()
        return getattr(self, "_last_eval_results", None)


def evaluate(cfg: CfgNode, resume: bool) -> dict:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the newest checkpoint in ``OUTPUT_DIR``.

    Raises:
        UsageError: there are no weights.
    """
    results = Trainer.test(cfg, load_model(cfg, resume))
    comm.synchronize()
    return results


def _check_view_sizes(cfg: CfgNode, patch_size: int) -> None:
    """Refuse training views whose sides are no multiples of the backbone's patch size."""
    sides = {"INPUT.CROP.SIZE": cfg.INPUT.CROP.SIZE}
    if cfg.INPUT.MULTI_CROP.LOCAL_VIEWS:
        sides["INPUT.MULTI_CROP.LOCAL_SIZE"] = [cfg.INPUT.MULTI_CROP.LOCAL_SIZE]
    for key, values in sides.items():
        if any(value % patch_size for value in values):
            what = f"it is {values}, but the backbone's patches are {patch_size} pixels wide"
            raise UsageError(what, key, f"choose multiples of {patch_size}")

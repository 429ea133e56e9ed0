# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate by Detectron2's ``DefaultTrainer``, with DALNet's data and optimizer."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, hooks
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dalnet.checkpoint import Checkpointer, CheckpointInfo, load_model
from dalnet.config import installed_systems
from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.loaders import ResumableLoader
from dalnet.errors import UsageError
from dalnet.evaluation import build_evaluator
from dalnet.evaluation.tags import ImageClassifier, TagsEvaluator
from dalnet.modeling.meta_arch.segmentor import WeakSegmentor, amp_dtype

from .generators import Generators, preserved_generators, set_generator_states
from .hooks import CheckpointHook, EvalHook
from .interruption import Interruption
from .memory import EVALUATION, TRAINING, memory_errors
from .optimizer import build_lr_scheduler, build_optimizer
from .run_folder import drop_later_metrics, has_results
from .step import StepTrainer
from .waiting import StepTimeout

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and evaluates the system that the config describes.

    Attributes:
        results: of the last evaluation, in percent; None before there is one.
        has_failed: whether an exception, also that of a signal, has ended the training.
    """

    results: dict[str, Any] | None = None
    _trainer: StepTrainer

    def __init__(self, cfg: CfgNode) -> None:
        """Build everything that ``cfg`` describes."""
        self._interruption = Interruption()
        self._start_batch = 0  # of the data order, at start_iter
        self._step_timeout = StepTimeout(cfg.SOLVER.STEP_TIMEOUT)
        self.has_failed = False
        self._best: dict[str, Any] = {}  # name, value and iteration of the best evaluation
        # As DefaultTrainer does, but processes without GPUs are joined too.
        super(DefaultTrainer, self).__init__()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self._trainer = StepTrainer(
            join_processes(model),
            self.build_train_loader(cfg),
            optimizer,
            parts=cfg.SOLVER.ACCUMULATION_STEPS,
            counts_parts=cfg.SOLVER.GLOBAL_LOSS_STATISTICS,
            amp_dtype=amp_dtype(cfg) if cfg.SOLVER.AMP.ENABLED else None,
            max_nonfinite=cfg.SOLVER.MAX_NONFINITE_STEPS,
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> WeakSegmentor[Any]:
        """Build the model and log its size rather than its whole structure."""
        model = build_model(cfg)
        _check_view_sizes(cfg, getattr(model.backbone, "patch_size", 1))
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info("%s, %.1f M parameters", type(model).__name__, count / 1e6)
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

    def build_hooks(self) -> list[HookBase]:
        """Return Detectron2's hooks, with DALNet's for checkpoints and evaluation."""
        cfg = self.cfg
        # Replaced here, as DefaultTrainer makes its own just before it asks for the hooks.
        self.checkpointer = Checkpointer(
            self._trainer.model,
            cfg.OUTPUT_DIR,
            info=CheckpointInfo.of_training(cfg),
            keep=cfg.SOLVER.CHECKPOINTS_KEPT,
        )
        replaced = (hooks.PeriodicCheckpointer, hooks.EvalHook)
        # Some are None. The writers come last, so that they write what an evaluation has measured.
        others = [hook for hook in super().build_hooks() if hook and not isinstance(hook, replaced)]
        writers = [hook for hook in others if isinstance(hook, hooks.PeriodicWriter)]
        periods = (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)
        return [
            *(hook for hook in others if hook not in writers),
            CheckpointHook(self._save, periods, self._interruption, self._step_timeout.lifted),
            EvalHook(
                cfg.TEST.EVAL_PERIOD, self._evaluate, partial(has_results, Path(cfg.OUTPUT_DIR))
            ),
            *writers,
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the run in ``OUTPUT_DIR``, or start a new one from ``MODEL.WEIGHTS``.

        A resumed run goes on as if it had not been interrupted; its length, rates and decay are
        what its config now states. A new run takes what fits of ``MODEL.WEIGHTS``; its texts are
        those of its own classes, unless ``MODEL.CLIP.SOURCE`` is "checkpoint".

        Raises:
            UsageError: the weights are missing, unreadable, or of another encoder, or the run is
                longer already than its config states.
        """
        if path := self._find_newest() if resume else "":
            self._load_state(self.checkpointer.load(path).get("trainer"), path)
        else:
            texts_are_taken = self.cfg.MODEL.CLIP.SOURCE == "checkpoint"
            keep = () if texts_are_taken else self.checkpointer.model.rebuilt
            self.checkpointer.start_from(self.cfg.MODEL.WEIGHTS, keep)
        if comm.is_main_process():
            drop_later_metrics(Path(self.cfg.OUTPUT_DIR), self.start_iter)

    def _find_newest(self) -> str:
        """Return the checkpoint to go on from, the same in all processes; empty if there is none.

        The first process looks: another one may see an older state of a shared folder.

        Raises:
            UsageError: all are damaged, or this process cannot see it.
        """
        path, checkpointer = "", self.checkpointer
        if comm.is_main_process() and checkpointer.has_checkpoint():
            path = checkpointer.get_checkpoint_file()
        path = comm.all_gather(path)[0]
        if path and not Path(path).is_file():
            what = f"rank {comm.get_rank()} does not see {path}"
            raise UsageError(what, "OUTPUT_DIR", "name a folder that all machines share")
        return path

    def _save(self, iteration: int, generators: Sequence[Generators]) -> None:
        """Write the state after an iteration, with that of each process's generators."""
        is_last, batch_size = iteration + 1 == self.max_iter, self.cfg.SOLVER.IMS_PER_BATCH
        state = {
            "iteration": iteration,
            # Of all processes: where the order of the images stands.
            "samples": (self._start_batch + iteration + 1 - self.start_iter) * batch_size,
            "step": self._trainer.state_dict(),
            "schedule": self.scheduler.state_dict(),
            "generators": list(generators),
            "best": self._best,
            "seed": self.cfg.SEED,
        }
        name = "model_final" if is_last else f"model_{iteration:07d}"
        self.checkpointer.save(name, iteration=iteration, trainer=state)

    def _load_state(self, state: Any, path: str) -> None:
        """Restore what :meth:`_save` has written."""
        try:
            start_iter, samples, seed = (
                _read_count(state, key) for key in ("iteration", "samples", "seed")
            )
            start_iter += 1
            self._refuse_other(path, seed, start_iter)
            # Not start_iter: the batches may have had another size before.
            self._start_batch = samples // self.cfg.SOLVER.IMS_PER_BATCH
            with self._own_rates():
                self._trainer.load_state_dict(state["step"])
                self.scheduler.load_state_dict(state["schedule"])
            self._best = dict(state["best"])
            self._restore_generators(state["generators"], path)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            hint = "use the config it was trained with, or train anew in another OUTPUT_DIR"
            what = f"its training cannot be resumed with this config ({error!r})"
            raise UsageError(what, path, hint) from error
        self.start_iter = self.iter = start_iter
        self._trainer.data_loader.start_at(self._start_batch)

    def _refuse_other(self, path: str, seed: int, start_iter: int) -> None:
        """Refuse a state of another order of images, or of more iterations than are wanted."""
        if seed != self.cfg.SEED:
            what = f"it is {self.cfg.SEED}, but {path} was trained with {seed}"
            raise UsageError(what, "SEED", f"set it to {seed}, which the order of images is from")
        if start_iter > self.max_iter:
            what = f"it is {self.max_iter}, but the run in OUTPUT_DIR has {start_iter} already"
            raise UsageError(what, "SOLVER.MAX_ITER", "raise it, or only evaluate the run")

    @contextmanager
    def _own_rates(self) -> Iterator[None]:
        """Let the block load a saved optimizer, then restore the rates and length of the config.

        Those in the file are the interrupted run's. Where they are the same, nothing changes.
        """
        scheduler = self.scheduler
        before = [{**group, "params": None} for group in scheduler.optimizer.param_groups]
        schedule = scheduler.state_dict()
        yield
        places = ("last_epoch", "_step_count")
        vars(scheduler).update({k: v for k, v in schedule.items() if k not in places})
        groups = scheduler.optimizer.param_groups
        for group, own, rate in zip(groups, before, scheduler.get_lr(), strict=True):
            group.update(own, params=group["params"], lr=rate)

    def _restore_generators(self, states: Sequence[Generators], path: str) -> None:
        """Restore this process's generators, if as many processes are at work as before."""
        if len(states) == comm.get_world_size():
            set_generator_states(states[comm.get_rank()])
            return
        logger.warning(
            "%s was saved by %d processes: random numbers of the model, as those of drop path, "
            "are drawn anew.",
            path,
            len(states),
        )

    def train(self) -> dict[str, Any] | None:
        """Train, and return the results of the last evaluation.

        The training is saved when a signal or a failure ends it.

        Raises:
            UsageError: a split of ``DATASETS.TEST`` cannot be evaluated, or memory runs out.
            SystemExit: a signal has come, see :mod:`dalnet.engine.interruption`.
        """
        for name in self.cfg.DATASETS.TEST:
            # Built here for their refusals, which would otherwise come after the training.
            self.build_test_loader(self.cfg, name)
            self.build_evaluator(self.cfg, name)
        logger.info("Training starts at iteration %d of %d", self.start_iter, self.max_iter)
        self.iter = self.start_iter
        with (
            self._interruption.noted(),
            # Around it all, as the end of a process that reads images is told at any moment.
            memory_errors(TRAINING),
            EventStorage(self.start_iter) as self.storage,
        ):
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if iteration == self.start_iter:
                        self._step_timeout.start()
                # By this number hooks see that the training was completed.
                self.iter = self.max_iter
            except BaseException:
                self.has_failed = True
                raise
            finally:
                self.after_train()
        self._list_skipped()
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self.results)
        return self.results

    def _list_skipped(self) -> None:
        """List the images that no process could read; since the last start, where resumed."""
        skipped = comm.all_gather(list(self._trainer.data_loader.skipped))
        sentences = sorted({sentence for of_process in skipped for sentence in of_process})
        if sentences:
            lines = "\n  ".join(sentences)
            logger.warning("%d images could not be read:\n  %s", len(sentences), lines)

    @property
    def is_updating(self) -> bool:
        """Whether the optimizer is changing the weights."""
        return self._trainer.is_updating

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Evaluate on ``DATASETS.TEST``: label maps, or image logits of a split without masks.

        Args:
            cfg, model: see ``DefaultTrainer``.
            evaluators: of the splits; by default those of :meth:`build_evaluator`.

        Returns:
            The results by split; of a single one, its results.
        """
        results = {}
        for number, name in enumerate(cfg.DATASETS.TEST):
            one = cfg.clone()
            one.defrost()
            one.DATASETS.TEST = (name,)
            one.freeze()
            evaluator = evaluators[number] if evaluators else cls.build_evaluator(one, name)
            measured = ImageClassifier(model) if isinstance(evaluator, TagsEvaluator) else model
            results[name] = super().test(one, measured, [evaluator])
        return results if len(results) != 1 else results[name]

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate the model, without a change to the random numbers of the training."""
        with (
            preserved_generators(),
            # Before it, as the first process may still be saving when the others come here.
            self._step_timeout.lifted(),
            self._interruption.immediate(),
            memory_errors(EVALUATION),
        ):
            share_statistics(self._trainer.model)
            self.results = self.test(self.cfg, self.model)
        # Flattened, because with one split the results are not nested under the split's name.
        found = flatten_results_dict(self.results or {})
        name = next((key for key in found if key.endswith(("mIoU", "mAP"))), None)
        if name is not None and found[name] > self._best.get("value", -1.0):
            self._best = {"name": name, "value": float(found[name]), "iteration": self.iter}
        return self.results


def _read_count(state: Mapping[str, Any], key: str) -> int:
    """Return a number of a saved state.

    Raises:
        ValueError: it is none.
    """
    if type(state[key]) is not int or state[key] < 0:
        raise ValueError(f"{key} is {state[key]!r}")
    return state[key]


def join_processes(model: nn.Module) -> nn.Module:
    """Wrap a model for data parallelism if there are several processes.

    The wrapper is not told the GPU. It would copy the images' dicts there, waiting for each tensor,
    and a batch has to be collated while its labels are still on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False)


def share_statistics(model: nn.Module) -> None:
    """Give all processes the first one's statistics of batch norms, which are in checkpoints.

    Each has those of its own images: without this each would evaluate a model of its own.
    """
    if comm.get_world_size() == 1:
        return
    for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
        for statistic in norm.buffers(recurse=False):
            dist.broadcast(statistic, 0)


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

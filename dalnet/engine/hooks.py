# SPDX-License-Identifier: Apache-2.0
"""Save the training while it runs."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from dalnet.errors import UsageError

from .generators import Generators, generator_states
from .interruption import Interruption

logger = logging.getLogger(__name__)


class EvalHook(hooks.EvalHook):
    """Evaluates periodically and at the end, as Detectron2's hook, but not after a failed step.

    An evaluation that an interrupted training has missed is run when it is resumed.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Any], has_results: Callable[[int], bool]
    ) -> None:
        """
        Args:
            period: iterations between evaluations; 0 for one at the end alone.
            evaluate: returns the results.
            has_results: whether the training has results of an evaluation after so many iterations.
        """
        super().__init__(period, evaluate)
        self._has_results = has_results

    def before_train(self) -> None:
        """Run the evaluation that an interrupted training has missed."""
        done = self.trainer.start_iter
        is_due = self._period > 0 and done % self._period == 0 and 0 < done < self.trainer.max_iter
        # The first process's answer: another one may see an older state of a shared folder.
        if is_due and not comm.all_gather(self._has_results(done))[0]:
            storage = self.trainer.storage
            storage.iter = done - 1  # as if after that step
            self._do_eval()
            storage.iter = done

    def after_train(self) -> None:
        """Evaluate after the last iteration, unless the training has failed."""
        if not self.trainer.has_failed:
            super().after_train()


class CheckpointHook(HookBase):
    """Saves the training: periodically, before evaluations, at the end, and when it stops early.

    It has to come after the hook of the learning rate and before that of the evaluation. It runs in
    all processes, because each has random number generators of its own.
    """

    def __init__(
        self,
        save: Callable[[int, Sequence[Generators]], None],
        periods: Sequence[int],
        interruption: Interruption,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            save: writes the state after an iteration, with the generators of all processes.
            periods: ``save`` is called after multiples of these numbers of iterations; a 0 is left
                out.
            interruption: tells whether a signal has come, after which the training is saved and
                ended.
            waiting: a context in which processes wait for the one that saves.
        """
        self._save = save
        self._periods = periods
        self._interruption = interruption
        self._waiting = waiting

    def before_train(self) -> None:
        """Note where the training starts."""
        self._saved = self._done = self.trainer.start_iter - 1
        self._generators = generator_states()

    def after_step(self) -> None:
        """Save if it is due; exit if any process has received a signal."""
        self._done, self._generators = self.trainer.iter, generator_states()
        number, count = self._interruption.agreed(), self._done + 1
        is_time = any(period > 0 and count % period == 0 for period in self._periods)
        if number or is_time or count == self.trainer.max_iter:
            self._saved = self._done
            with self._waiting():
                self._save(self._done, comm.all_gather(self._generators))
        if number:
            logger.info("Stopped after %d iterations; resume to go on.", count)
            self._interruption.exit()

    def after_train(self) -> None:
        """If a failure has ended the training, save the last iteration that was completed."""
        if self.trainer.has_failed and self._saved < self._done and not self.trainer.is_updating:
            try:
                self._save(self._done, [self._generators])
            except UsageError as error:
                logger.error("The last iterations could not be saved: %s", error)

# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation as programs: set-up, trainer, hooks, launch."""

from .launch import run
from .setup import setup
from .trainer import DALNetTrainer, evaluate

__all__ = ["DALNetTrainer", "evaluate", "run", "setup"]

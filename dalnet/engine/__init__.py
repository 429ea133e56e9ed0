# SPDX-License-Identifier: Apache-2.0
"""Training, evaluation and prediction as programs: set-up, trainer, hooks, launch."""

from .launch import run
from .predictor import Predictor
from .setup import setup
from .trainer import DALNetTrainer, evaluate, load_model

__all__ = ["DALNetTrainer", "Predictor", "evaluate", "load_model", "run", "setup"]

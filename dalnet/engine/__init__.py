# SPDX-License-Identifier: Apache-2.0
"""Training: set-up, trainer, optimizer, launch."""

from .launch import run
from .setup import setup
from .trainer import Trainer, evaluate

__all__ = ["Trainer", "evaluate", "run", "setup"]

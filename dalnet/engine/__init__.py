# SPDX-License-Identifier: Apache-2.0
"""Set up and run trainings."""

from .launch import run
from .setup import setup
from .trainer import Trainer, evaluate

__all__ = ["Trainer", "evaluate", "run", "setup"]

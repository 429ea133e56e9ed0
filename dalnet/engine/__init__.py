# SPDX-License-Identifier: Apache-2.0
"""Set up and run trainings."""

from .launch import run
from .setup import setup
from .trainer import Trainer

__all__ = ["Trainer", "run", "setup"]

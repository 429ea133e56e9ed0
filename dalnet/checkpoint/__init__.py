# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: weights together with their classes and config."""

from .checkpointer import Checkpointer
from .files import checkpoint_hash, find_checkpoint
from .info import CheckpointInfo, read_info
from .models import config_for, config_of_checkpoint, expect_checkpoint, load_model

__all__ = [
    "CheckpointInfo",
    "Checkpointer",
    "checkpoint_hash",
    "config_for",
    "config_of_checkpoint",
    "expect_checkpoint",
    "find_checkpoint",
    "load_model",
    "read_info",
]

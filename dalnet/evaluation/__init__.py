# SPDX-License-Identifier: Apache-2.0
"""Measure models, and print and write what was measured."""

from .evaluator import build_evaluator

__all__ = ["build_evaluator"]

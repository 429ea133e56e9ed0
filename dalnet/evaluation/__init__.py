# SPDX-License-Identifier: Apache-2.0
"""Measure models, and print and write what was measured."""

from .evaluator import TableEvaluator, build_evaluator

__all__ = ["TableEvaluator", "build_evaluator"]

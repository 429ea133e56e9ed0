# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how it is printed."""

from .evaluator import LabelMapEvaluator, build_evaluator

__all__ = ["LabelMapEvaluator", "build_evaluator"]

# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how it is printed."""

from .evaluator import TableEvaluator, build_evaluator

__all__ = ["TableEvaluator", "build_evaluator"]

# SPDX-License-Identifier: Apache-2.0
"""Predicting on images and videos of one's own."""

from .prediction import Prediction
from .predictor import Predictor

__all__ = ["Prediction", "Predictor"]

# SPDX-License-Identifier: Apache-2.0
"""Predict images and videos with a trained model."""

from .prediction import Prediction
from .predictor import Predictor

__all__ = ["Prediction", "Predictor"]

# SPDX-License-Identifier: Apache-2.0
"""What follows the encoder: classifiers, segmentation head, projections."""

from .cam_classifier import CAMClassifier
from .large_fov import LargeFOVHead
from .projections import AlignmentProjections

__all__ = ["AlignmentProjections", "CAMClassifier", "LargeFOVHead"]

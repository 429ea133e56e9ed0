# SPDX-License-Identifier: Apache-2.0
"""Numerical kernels: tensors in, tensors out, no config and no Detectron2."""

from dalnet.layers.bilateral import bilateral_filter
from dalnet.layers.dense_crf import dense_crf
from dalnet.layers.par import PixelAdaptiveRefinement

__all__ = ["PixelAdaptiveRefinement", "bilateral_filter", "dense_crf"]

# SPDX-License-Identifier: Apache-2.0
"""The dense CRF by pydensecrf, the wrapper of the authors' code, one image after another."""

import numpy as np
import torch
from torch import Tensor


def published_dense_crf(
    images: Tensor,
    probs: Tensor,
    iters: int = 10,
    pos_w: float = 1.0,
    pos_xy_std: float = 1.0,
    bi_w: float = 4.0,
    bi_xy_std: float = 121.0,
    bi_rgb_std: float = 5.0,
) -> Tensor:
    """Arguments and result as ``dalnet.layers.dense_crf``, the result on the CPU."""
    from pydensecrf.densecrf import DenseCRF2D  # optional

    results = []
    for image, maps in zip(images.cpu().numpy(), probs.float().cpu(), strict=True):
        classes, height, width = maps.shape
        unary = -maps.clamp(1e-5, 1.0).log().flatten(1)
        crf = DenseCRF2D(width, height, classes)
        crf.setUnaryEnergy(np.ascontiguousarray(unary.numpy()))
        crf.addPairwiseGaussian(sxy=pos_xy_std, compat=pos_w)
        crf.addPairwiseBilateral(
            sxy=bi_xy_std, srgb=bi_rgb_std, rgbim=np.ascontiguousarray(image), compat=bi_w
        )
        results.append(torch.from_numpy(np.array(crf.inference(iters))).view_as(maps))
    return torch.stack(results)

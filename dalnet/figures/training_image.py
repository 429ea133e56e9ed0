# SPDX-License-Identifier: Apache-2.0
"""One image of a training step as a strip of four pictures, for TensorBoard."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .overlay import blend_labels, draw_heat


def training_strip(
    image: Tensor,
    cam: Tensor,
    pseudo_label: Tensor,
    prediction: Tensor,
    colors: Sequence[Sequence[int]],
) -> Tensor:
    """Return image, CAM, pseudo label and prediction side by side.

    Args:
        image: float ``[3, H, W]``, RGB in 0..255.
        cam: ``[C, H, W]`` in 0..1, zero for classes that the image does not show.
        pseudo_label: integers ``[H, W]``, background 0, ignored 255.
        prediction: integers ``[H, W]``.
        colors: C + 1 RGB triples in 0..255, background first.

    Returns:
        uint8 ``[3, H, 4 W]`` on the CPU, as ``EventStorage.put_image`` takes it.
    """
    rgb = image.detach().round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    pictures = [
        rgb,
        draw_heat(rgb, cam.detach().float().amax(dim=0).cpu().numpy()),
        blend_labels(rgb, pseudo_label.cpu().numpy(), colors),
        blend_labels(rgb, prediction.cpu().numpy(), colors),
    ]
    return torch.from_numpy(np.concatenate(pictures, axis=1)).permute(2, 0, 1).contiguous()

# SPDX-License-Identifier: Apache-2.0
"""Draw an image of a training step as four panels, for TensorBoard."""

import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from dalnet.modeling.resize import resize

_HEAT = (255.0, 0.0, 0.0)


@torch.no_grad()
def draw_training_image(image: Tensor, cams: Tensor, label_map: Tensor, logits: Tensor) -> Tensor:
    """Put an image, its CAMs, its pseudo label and its prediction side by side.

    Args:
        image: ``[3, H, W]``, RGB in 0..255.
        cams: of the image's classes, ``[K, H, W]`` in 0..1; the largest is shown in red.
        label_map: pseudo label ``[H, W]``; background and ignored pixels stay as they are.
        logits: of the segmentation head, ``[C + 1, h, w]``.

    Returns:
        uint8 ``[3, H, 4 W]`` on the CPU, as ``EventStorage.put_image`` takes it.
    """
    image, num_classes = image.detach().cpu(), len(logits) - 1
    large = resize(logits[None].float(), image.shape[-2:])
    heat = cams.float().cpu().amax(dim=0, keepdim=True)
    colored = image * (1 - heat) + torch.tensor(_HEAT).view(3, 1, 1) * heat
    panels = [_to_bytes(image), _to_bytes(colored)]
    for labels in (label_map.cpu(), large[0].argmax(dim=0).cpu()):
        masks = labels == torch.arange(1, num_classes + 1).view(-1, 1, 1)
        panels.append(draw_segmentation_masks(panels[0], masks, alpha=0.7))
    return torch.cat(panels, dim=2)


def _to_bytes(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)

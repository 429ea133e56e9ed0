# SPDX-License-Identifier: Apache-2.0
"""Make pseudo labels from CAMs and the image, and find the classes in boxes of a label map.

In a label map, background is 0 and class c of 0..C-1 is c + 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.boxes import box_mask
from dalnet.modeling.image_classes import ImageClasses
from dalnet.modeling.resize import resize


@torch.no_grad()
def refine(
    par: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    cams: Tensor,
    labels: Tensor,
    boxes: Tensor,
    low: float,
    high: float,
    ignore: int = 255,
) -> Tensor:
    """Return pseudo labels made by refining CAMs at half size (AFA, CVPR 2022; ToCo, CVPR 2023).

    The softmax over background and CAMs of the image's classes is refined twice, with ``high`` and
    with ``low`` as the background's score. A pixel gets a class where the run with ``high`` finds
    this class, background where both runs find background, and else ``ignore``. An image's result
    does not depend on the other images of the batch.

    Args:
        par: refinement, ``(images [N, 3, h, w], masks [N, K, h, w]) -> [N, K, h, w]``, each mask
            channel by itself, as ``dalnet.layers.PixelAdaptiveRefinement``.
        images: ``[N, 3, H, W]`` RGB in 0..1.
        cams: ``[N, C, H, W]`` in 0..1.
        labels: ``[N, C]`` multi-hot image labels; an image without any is all background.
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1), the image inside the padded view.
        low: background score of the run that finds sure background.
        high: background score of the run that finds sure foreground.
        ignore: label of unsure pixels, and outside the box.

    Returns:
        ``[N, H, W]`` long.
    """
    classes = ImageClasses.from_labels(labels)
    local = refine_local(par, images, classes.gather(cams), classes.valid, boxes, low, high, ignore)
    return classes.to_class_labels(local, ignore)


@torch.no_grad()
def refine_local(
    par: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    cams: Tensor,
    valid: Tensor,
    boxes: Tensor,
    low: float,
    high: float,
    ignore: int = 255,
) -> Tensor:
    """Do as :func:`refine`, for CAMs of each image's own classes alone.

    Args:
        par, images, boxes, low, high, ignore: as there.
        cams: ``[N, K, H, W]`` in 0..1.
        valid: ``[N, K]``, 0 for a map whose class the image does not show: it gets no mass.

    Returns:
        ``[N, H, W]`` long, k + 1 for the class of map k.
    """
    size = images.shape[-2:]
    half = [max(side // 2, 1) for side in size]
    scores = resize(cams.float(), half)  # [N, K, h, w]
    scores = scores.masked_fill((valid <= 0)[:, :, None, None], -torch.inf)
    # Softmax over {background, classes}, once for each background score.
    padding = (0, 0, 0, 0, 1, 0)
    runs = [F.pad(scores, padding, value=score).softmax(dim=1) for score in (high, low)]
    # Both runs share the affinities, because the refinement acts on every channel alike.
    refined = par(resize(images.float(), half), torch.cat(runs, dim=1))  # [N, 2 (K + 1), h, w]
    refined = resize(refined, size).unflatten(1, (2, -1))  # [N, 2, K + 1, H, W]
    # On a CPU, argmax along another dimension than the last takes ten times as long.
    sure_foreground, sure_background = refined.max(dim=2).indices.unbind(1)  # [N, H, W] each
    unsure = (sure_foreground == 0) & (sure_background != 0)
    return sure_foreground.masked_fill(unsure | ~box_mask(boxes, *size), ignore)


@torch.no_grad()
def local_view_labels(
    label_map: Tensor, boxes: Tensor, num_classes: int, min_coverage: float
) -> Tensor:
    """Return the image labels of local views: the classes that cover enough of each view.

    Args:
        label_map: ``[N, H, W]`` integer labels of the main views' pixels; since they hold only
            classes of the image, so does the result.
        boxes: ``[N, L, 4]`` integers (y0, y1, x0, x1), each view's place in its main view.
        num_classes: C, without background; the time grows with it.
        min_coverage: smallest fraction of the box, 0..1, that a class must cover; pixels with any
            other label, ignored ones too, count as not covered.

    Returns:
        ``[N, L, C]`` multi-hot float; a view without a class is all zero.
    """
    height, width = label_map.shape[-2:]
    y0, y1 = boxes[..., :2].clamp(0, height).unbind(-1)
    x0, x1 = boxes[..., 2:].clamp(0, width).unbind(-1)
    needed = min_coverage * ((y1 - y0) * (x1 - x0)).double()
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    result = torch.zeros(*boxes.shape[:2], num_classes, device=boxes.device)
    for value in range(1, num_classes + 1):
        # The integral image [N, H + 1, W + 1] gives the sum over any box by four look-ups.
        area = F.pad((label_map == value).cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
        covered = area[image, y1, x1] - area[image, y0, x1] - area[image, y1, x0]
        covered = covered + area[image, y0, x0]
        result[:, :, value - 1] = ((covered >= needed) & (covered > 0)).float()
    return result

# SPDX-License-Identifier: Apache-2.0
"""Compute class activation maps (CAMs), and turn them into masks, scores and label maps.

In a label map, background is 0 and class c of 0..C-1 is c + 1.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.modeling.boxes import box_mask
from dalnet.modeling.resize import resize_by

_PEAK_EPS = 1e-5


def normalize_cam(raw: Tensor) -> Tensor:
    """Return CAMs by Eq. 1 of the DALNet paper: ReLU, then divided by the maximum.

    Args:
        raw: ``[N, C, h, w]`` raw CAMs.

    Returns:
        ``[N, C, h, w]`` in 0..1, with maximum 1 per class and image; a map that is nowhere positive
        is zero.
    """
    cam = raw.relu()
    peak = cam.amax(dim=(2, 3), keepdim=True)
    return cam / peak.masked_fill(peak == 0, 1.0)


@torch.no_grad()
def object_mask(raw_inter: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return the object-aware mask M_obj of the DALNet paper (Sec. 3.3), without gradient.

    Args:
        raw_inter: ``[N, C, h, w]`` raw CAMs of the intermediate classifier.
        labels: ``[N, C]`` multi-hot image labels.
        threshold: beta; a patch shows an object where any CAM of the image's classes exceeds it.

    Returns:
        ``[N, h, w]`` of 0.0 and 1.0.
    """
    cams = normalize_cam(raw_inter.float()) * labels[:, :, None, None]
    return (cams.amax(dim=1) > threshold).float()


@torch.no_grad()
def multi_scale_cam(
    cam_fn: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, scales: Sequence[float]
) -> tuple[Tensor, ...]:
    """Return CAMs over several image scales, each also flipped (ToCo, CVPR 2023).

    At each scale the raw maps of the image and of its flipped copy are resized to the image, and
    the maximum of the two is rectified. The sum over the scales is brought to 0..1, for each class
    and image by itself.

    Args:
        cam_fn: maps images ``[M, 3, h', w']`` to a tuple of raw CAMs ``[M, C, h, w]``.
        images: ``[N, 3, H, W]``, as ``cam_fn`` expects them.
        scales: factors of the side length; exactly these are used.

    Returns:
        One ``[N, C, H, W]`` float tensor in 0..1 per map that ``cam_fn`` returns.

    Raises:
        ValueError: no scale.
    """
    if not scales:
        raise ValueError("a multi-scale CAM needs at least one scale, as (1.0,)")
    per_scale = []  # for each scale and each map of cam_fn: [plain, flipped], both [N, C, h, w]
    for scale in scales:
        scaled = resize_by(images, scale)  # [N, 3, h', w']
        halves = (raw.chunk(2) for raw in cam_fn(torch.cat([scaled, scaled.flip(-1)])))
        per_scale.append([[plain, flipped.flip(-1)] for plain, flipped in halves])
    size = images.shape[-2:]
    return tuple(fuse_raw_cams(views, size) for views in zip(*per_scale, strict=True))


def fuse_raw_cams(
    per_scale: Iterable[Sequence[Tensor]],
    size: Sequence[int],
    flip: str = "max",
    normalize: str = "min_max",
    stride: int = 1,
) -> Tensor:
    """Return CAMs in 0..1 made from raw CAMs of several scales.

    Args:
        per_scale: for each scale, at least one, a list of raw maps ``[N, C, h, w]``: those of the
            image, and where wanted those of its flipped copy, flipped back.
        size: (H, W) of the result.
        flip: how the maps of a scale are joined: "max" of the enlarged and rectified maps (ToCo,
            CVPR 2023) or "sum" of the rectified maps, which are then enlarged (CLIMS, CVPR 2022).
        normalize: how the sum over the scales is brought to 0..1 per class and image: "min_max"
            subtracts the minimum, then divides by the maximum (ToCo); "max" only divides (CLIMS).
        stride: pixels of the image for each cell of the maps, where the maps begin at the image's
            upper left corner and may reach beyond its other edges, as a CNN's: they are enlarged to
            the next multiple of the stride, then cut. 1 where they cover the image exactly.

    Returns:
        ``[N, C, H, W]``, float32.
    """
    grid = [stride * math.ceil(side / stride) for side in size]

    def enlarge(maps: Tensor) -> Tensor:
        return F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)

    def join(views: Sequence[Tensor]) -> Tensor:
        if flip == "sum":
            return enlarge(functools.reduce(torch.add, (raw.float().relu() for raw in views)))
        return functools.reduce(torch.maximum, (enlarge(raw).relu_() for raw in views))

    # Added in place, because with many classes these are the largest tensors of a training step.
    cam = functools.reduce(Tensor.add_, map(join, per_scale))[..., : size[0], : size[1]]
    if normalize == "min_max":
        cam = cam - cam.amin(dim=(2, 3), keepdim=True)
    return cam / (cam.amax(dim=(2, 3), keepdim=True) + _PEAK_EPS)


@torch.no_grad()
def cam_to_label(
    cams: Tensor, labels: Tensor, boxes: Tensor, low: float, high: float, ignore: int = 255
) -> Tensor:
    """Return a label map: the class of the largest CAM, by two thresholds (ToCo, CVPR 2023).

    Args:
        cams: ``[N, C, H, W]`` in 0..1.
        labels: ``[N, C]`` multi-hot image labels; CAMs of classes not shown are left out.
        boxes: ``[N, 4]`` integers (y0, y1, x0, x1) in the pixels of ``cams``.
        low: up to this value a pixel is background.
        high: above this value a pixel has the class of the largest CAM.
        ignore: label between the thresholds, and outside the box.

    Returns:
        ``[N, H, W]`` long.
    """
    value, index = (cams * labels[:, :, None, None]).max(dim=1)
    label_map = torch.where(value > high, index + 1, ignore)
    label_map = label_map.masked_fill(value <= low, 0)
    return label_map.masked_fill(~box_mask(boxes, *cams.shape[-2:]), ignore)


@torch.no_grad()
def cam_scores(cams: Tensor, threshold: float) -> Tensor:
    """Return scores of background and an image's own classes; their arg max is the label map.

    Args:
        cams: ``[K, H, W]`` in 0..1, of the K classes of one image.
        threshold: score of the background, not negative; it wins ties.

    Returns:
        ``[K + 1, H, W]``, background first.
    """
    return F.pad(cams, (0, 0, 0, 0, 1, 0), value=threshold)


def cam_probabilities(cams: Tensor, threshold: float) -> Tensor:
    """Return the scores of :func:`cam_scores`, divided so that they add up to 1, for a CRF.

    Args:
        cams, threshold: as there.

    Returns:
        ``[K + 1, H, W]``, background first. Where all scores of a pixel are 0 they stay 0, and
        the CRF takes them as equal.
    """
    scores = cam_scores(cams, threshold)
    return scores / scores.sum(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)

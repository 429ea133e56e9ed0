# SPDX-License-Identifier: Apache-2.0
"""Class activation maps: Eq. 1, object-aware mask, multi-scale CAM, label map.

Class c of 0..C-1 has the label c + 1 in a label map, background has 0.
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
    """Return the CAM of the DALNet paper, Eq. 1: ReLU, then divided by its maximum.

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
        threshold: beta; a patch is object where the largest CAM of the image's classes exceeds it.

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

    Per scale both raw maps are resized to the image and their maximum is rectified; the sum over
    the scales is brought to 0..1 per class and image.

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
    per_scale = []  # of each scale, for each of the maps: [of the images, of their flipped copies]
    for scale in scales:
        scaled = resize_by(images, scale)
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
    """Fuse raw CAMs of several scales into one in 0..1.

    Args:
        per_scale: for each scale, at least one, the raw maps ``[N, C, h, w]`` of its views, all the
            same way round: the image's alone, or also its flipped copy's.
        size: (H, W) of the result.
        flip: how the views of a scale are joined: "max" of the enlarged and rectified maps (ToCo,
            CVPR 2023) or "sum" of the rectified maps, which are then enlarged (CLIMS, CVPR 2022).
        normalize: how the sum over the scales is brought to 0..1 per class and image: "min_max"
            takes off the minimum, then divides by the maximum (ToCo); "max" only divides (CLIMS).
        stride: side of a place of the maps in pixels, where they begin at the image's corner and
            reach over its other end, as those of a CNN: they are enlarged to the next multiples of
            it and cut. 1 where they cover the image exactly.

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

    # The sum is taken in place, because with many classes these are a step's largest tensors.
    cam = functools.reduce(Tensor.add_, map(join, per_scale))[..., : size[0], : size[1]]
    if normalize == "min_max":
        cam = cam - cam.amin(dim=(2, 3), keepdim=True)
    return cam / (cam.amax(dim=(2, 3), keepdim=True) + _PEAK_EPS)


@torch.no_grad()
def cam_to_label(
    cams: Tensor, labels: Tensor, boxes: Tensor, low: float, high: float, ignore: int = 255
) -> Tensor:
    """Return the label map of the CAMs of each image's classes by two thresholds (ToCo, CVPR 2023).

    Args:
        cams: ``[N, C, H, W]`` in 0..1.
        labels: ``[N, C]`` multi-hot image labels; CAMs of other classes are left out.
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
def cam_scores(cams: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Return scores over background and classes whose arg max is the CAM's label map.

    Args:
        cams: ``[N, C, H, W]`` in 0..1.
        labels: ``[N, C]`` multi-hot image labels; other classes score 0.
        threshold: score of the background, not negative; it wins ties.

    Returns:
        ``[N, C + 1, H, W]``, background first.
    """
    return F.pad(cams * labels[:, :, None, None], (0, 0, 0, 0, 1, 0), value=threshold)


def cam_probabilities(cams: Tensor, threshold: float) -> Tensor:
    """Return scores over background and an image's own classes that sum to 1, for a CRF.

    Args:
        cams: ``[K, H, W]`` in 0..1, of the K classes of one image.
        threshold: score of the background, not negative.

    Returns:
        ``[K + 1, H, W]``, background first; 0 throughout at a pixel where all scores are 0,
        which the CRF reads as "all equal".
    """
    scores = cam_scores(cams[None], cams.new_ones(1, len(cams)), threshold)[0]
    return scores / scores.sum(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)

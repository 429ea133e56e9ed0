# SPDX-License-Identifier: Apache-2.0
"""Inputs with the statistics that the kernels meet: VOC's images, if there, smooth scores."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def image_folder() -> Path | None:
    """Return PASCAL VOC's folder of images, if ``DETECTRON2_DATASETS`` has it."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "VOC2012", "JPEGImages")
    return folder if folder.is_dir() else None


def sample_images(n: int, height: int, width: int, synthetic: bool = False) -> Tensor:
    """Return the same ``n`` images at each call, scaled and cut: uint8 [n, 3, height, width].

    They are VOC's; synthetic ones where there are none, or where ``synthetic`` asks for them.
    """
    folder = None if synthetic else image_folder()
    files = sorted(folder.glob("*.jpg"))[:n] if folder else []
    if len(files) < n:
        return synthetic_images(n, height, width)
    fitted = [ImageOps.fit(Image.open(file).convert("RGB"), (width, height)) for file in files]
    return torch.stack([pil_to_tensor(image) for image in fitted])


def synthetic_images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return smooth shading with a few edges and fine noise: uint8 [n, 3, height, width]."""
    rng = torch.Generator().manual_seed(seed)
    shading = _upscale(torch.rand(n, 3, 4, 5, generator=rng), height, width)
    regions = _upscale(torch.rand(n, 1, 5, 4, generator=rng), height, width) > 0.5
    noise = torch.randn(n, 3, height, width, generator=rng)
    levels = 0.6 * shading + 0.3 * regions + 0.02 * noise
    return (levels.clamp(0, 1) * 255).round().to(torch.uint8)


def smooth_scores(n: int, k: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return class maps like a segmentation head's: [n, k, height, width], positive, of sum 1."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, 5, 6, generator=rng)
    return _upscale(logits, height, width).softmax(dim=1)


def smooth_cams(n: int, classes: int, height: int, width: int) -> Tensor:
    """Return activation maps of a few blobs each: [n, classes, height, width] in 0..1."""
    rng = torch.Generator().manual_seed(0)
    maps = _upscale(torch.rand(n, classes, 5, 6, generator=rng), height, width)
    low, high = (bound[..., None, None] for bound in maps.flatten(2).aminmax(dim=2))
    return (maps - low) / (high - low)


def _upscale(maps: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)

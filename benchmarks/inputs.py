# SPDX-License-Identifier: Apache-2.0
"""Inputs with the statistics the kernels meet: photographs if there are any, smooth scores."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def photograph_folder() -> Path | None:
    """PASCAL VOC's photographs, if ``DETECTRON2_DATASETS`` has them."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"), "VOC2012", "JPEGImages")
    return folder if folder.is_dir() else None


def photographs(n: int, height: int, width: int, synthetic: bool = False) -> Tensor:
    """``n`` photographs, the same at each call, scaled and cut to uint8 [n, 3, height, width].

    Pictures like them where there are none, or where ``synthetic`` asks for it.
    """
    folder = None if synthetic else photograph_folder()
    files = sorted(folder.glob("*.jpg"))[:n] if folder else []
    if len(files) < n:
        return pictures(n, height, width)
    fitted = [ImageOps.fit(Image.open(file).convert("RGB"), (width, height)) for file in files]
    return torch.stack([pil_to_tensor(image) for image in fitted])


def pictures(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth shading, a few edges, fine noise: uint8 [n, 3, height, width]."""
    rng = torch.Generator().manual_seed(seed)
    shading = _upscale(torch.rand(n, 3, 4, 5, generator=rng), height, width)
    regions = _upscale(torch.rand(n, 1, 5, 4, generator=rng), height, width) > 0.5
    noise = torch.randn(n, 3, height, width, generator=rng)
    levels = 0.6 * shading + 0.3 * regions + 0.02 * noise
    return (levels.clamp(0, 1) * 255).round().to(torch.uint8)


def smooth_scores(n: int, k: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Class maps as a segmentation head gives them: [n, k, height, width], positive, sum 1."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, 5, 6, generator=rng)
    return _upscale(logits, height, width).softmax(dim=1)


def smooth_cams(n: int, classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Activation maps of a few blobs each: [n, classes, height, width] in 0..1."""
    rng = torch.Generator().manual_seed(seed)
    maps = _upscale(torch.rand(n, classes, 5, 6, generator=rng), height, width)
    low, high = (bound[..., None, None] for bound in maps.flatten(2).aminmax(dim=2))
    return (maps - low) / (high - low)


def _upscale(maps: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)

# SPDX-License-Identifier: Apache-2.0
"""Multi-scale CAMs as published (ToCo, CVPR 2023): every pass anew, attention as a matrix."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextlib.contextmanager
def materialized_attention(network: nn.Module) -> Iterator[None]:
    """Let timm's attention layers hold softmax(q k) as a matrix, not fuse it away."""
    layers = [layer for layer in network.modules() if hasattr(layer, "fused_attn")]
    before = [layer.fused_attn for layer in layers]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused


@torch.no_grad()
def published_multi_scale_cam(
    cam_fn: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, scales: Sequence[float]
) -> tuple[Tensor, ...]:
    """Arguments and result as ``dalnet.modeling.cam.multi_scale_cam``."""
    n, _, height, width = images.shape
    collected: list[list[Tensor]] = []
    for scale in scales:
        size = (int(scale * height), int(scale * width))
        scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        fused = []
        for raw in cam_fn(torch.cat([scaled, scaled.flip(-1)], dim=0)):
            raw = F.interpolate(raw, size=(height, width), mode="bilinear", align_corners=False)
            fused.append(F.relu(torch.max(raw[:n], raw[n:].flip(-1))))
        collected.append(fused)
    results = []
    for per_scale in zip(*collected, strict=True):
        cam = torch.stack(per_scale).sum(dim=0)
        cam = cam + F.adaptive_max_pool2d(-cam, (1, 1))
        results.append(cam / (F.adaptive_max_pool2d(cam, (1, 1)) + 1e-5))
    return tuple(results)

# SPDX-License-Identifier: Apache-2.0
"""Cases that run the encoder. Errors are relative L2."""

import torch
from torch import Tensor

from benchmarks.harness import Case, Pair
from benchmarks.inputs import photographs
from benchmarks.plain.cam import materialised_attention, published_multi_scale_cam
from dalnet.modeling.backbone.vit import TimmViT
from dalnet.modeling.heads import CAMClassifier
from dalnet.modeling.multi_scale import Passes

_SCALES = (1.0, 0.5, 1.5)


def make_multi_scale_cam(device: str, small: bool) -> Pair:
    """The CAMs of a training step, final and intermediate, of one image.

    Ours as in training: the plain pass at scale 1 exists already, and on CUDA the encoder runs in
    mixed precision. The published form is in single precision, so the error there shows both.
    """
    name, side = ("vit_tiny_patch16_224", 96) if small else ("vit_base_patch16_224", 448)
    torch.manual_seed(0)
    encoder = TimmViT(name=name, weights="", intermediate_block=10).to(device).eval()
    heads = [CAMClassifier(encoder.embed_dim, 20).to(device) for _ in range(2)]
    images = photographs(1, side, side, small).to(device).float() / 127.5 - 1
    maps = {
        "cam": lambda tokens: heads[0].cam(tokens["patch_tokens"]),
        "cam_inter": lambda tokens: heads[1].cam(tokens["inter_tokens"]),
    }
    mixed = torch.autocast(device, enabled=device == "cuda")
    with torch.no_grad(), mixed:
        tokens = encoder(images)

    @torch.no_grad()
    def ours() -> tuple[Tensor, ...]:
        with mixed:
            passes = Passes(encoder, maps, images)
            passes.take_over(tokens)
            return tuple(passes.cams(name, _SCALES, flip=True) for name in maps)

    def raw_cams(views: Tensor) -> tuple[Tensor, ...]:
        found = encoder(views)
        return tuple(read(found) for read in maps.values())

    def plain() -> tuple[Tensor, ...]:
        with materialised_attention(encoder):
            return published_multi_scale_cam(raw_cams, images, _SCALES)

    return Pair(ours, plain)


CASES = (Case("multi_scale_cam", make_multi_scale_cam),)

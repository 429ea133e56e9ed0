# SPDX-License-Identifier: Apache-2.0
"""How near each patch of an image is to the texts of its classes and of the background."""

import typing
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.errors import UsageError
from dalnet.modeling.heads import AlignmentProjections
from dalnet.modeling.losses import text_similarity
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.modeling.multi_scale import Features


class AlignedModel(typing.Protocol):
    """What a system needs for the functions below, beside what every system has.

    Attributes:
        projections: into a space that patches and texts share; None without one.
        text_fg, text_bg: embeddings of the classes ``[C, d_t]`` and of the background ``[1, d_t]``.
    """

    projections: AlignmentProjections | None
    text_fg: Tensor
    text_bg: Tensor


@torch.no_grad()
def patch_similarities(
    model: AlignedModel, features: Features, image_classes: Sequence[int]
) -> dict[int, Tensor]:
    """Return the cosines of the last block's patch tokens with texts, in the common space (Fig. 6).

    Args:
        model: in evaluation mode.
        features: of one image, with ``patch_tokens`` ``[1, D, h, w]``.
        image_classes: the classes, 0..C-1, that the image shows.

    Returns:
        By label ``[h, w]`` in -1..1: first c + 1 for each class c, then 0, the background.

    Raises:
        UsageError: the model has no common space.
    """
    if getattr(model, "projections", None) is None:
        raise UsageError(
            "the model has no space that patches and texts share, as it was trained without "
            "alignment losses; give one that was trained with them."
        )
    texts = model.projections.text(torch.cat([model.text_fg[list(image_classes)], model.text_bg]))
    tokens = features["patch_tokens"]
    patches = model.projections.visual(tokens.flatten(2).transpose(1, 2))
    cosines = text_similarity(patches, texts).unflatten(2, tokens.shape[-2:])[0]
    return dict(zip([*(c + 1 for c in image_classes), 0], cosines, strict=True))


@torch.no_grad()
def similarity_maps(model: WeakSegmentor, record: dict[str, Any]) -> dict[int, np.ndarray]:
    """Return the cosines of :func:`patch_similarities`, float32 ``[H, W]``, at the image's size.

    Args:
        model: in evaluation mode, an :class:`AlignedModel` too.
        record: what the test mapper made of one image with image-level labels.

    Raises:
        UsageError: as :func:`patch_similarities`.
    """
    size = (record["height"], record["width"])
    image = model.infer(record["image"].to(model.device).float()[None], size)
    image_classes = record["image_labels"].nonzero().flatten().tolist()
    cosines = patch_similarities(model, image.features(), image_classes)
    small = torch.stack(list(cosines.values()))[None]
    maps = F.interpolate(small, size=size, mode="bilinear", align_corners=False)[0]
    return dict(zip(cosines, maps.cpu().numpy(), strict=True))

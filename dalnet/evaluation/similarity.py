# SPDX-License-Identifier: Apache-2.0
"""How near each patch of a photograph is to the texts of its classes and of the background."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.errors import UsageError
from dalnet.modeling import DALNet
from dalnet.modeling.losses import text_similarity


@torch.no_grad()
def encode_photo(model: DALNet, item: dict[str, Any]) -> dict[str, Tensor]:
    """Run the encoder once, at scale 1.0.

    Args:
        model: in evaluation mode.
        item: what ``DALNetMapper`` made of one photograph at test time.

    Returns:
        The backbone's ``patch_tokens`` and ``inter_tokens``, each [1, D, h, w], and ``cls_token``.
    """
    return model.encode(model.normalize(item["image"].to(model.device).float()[None]))


@torch.no_grad()
def patch_similarities(
    model: DALNet, tokens: dict[str, Tensor], image_labels: Tensor
) -> dict[int, Tensor]:
    """Cosines, in the common space, of the last block's patch tokens with texts (Fig. 6).

    Args:
        model: in evaluation mode.
        tokens: of :func:`encode_photo`.
        image_labels: [C], 1 for a class that the image shows.

    Returns:
        By label, [h, w] in -1..1: first the classes that the image shows (c + 1 for class c of
        0..C-1), then 0, the background.

    Raises:
        UsageError: the model was trained without alignment and so has no common space.
    """
    if model.projections is None:
        raise UsageError(
            "The model has no space that patches and texts share, as it was trained without "
            "alignment losses; give a config with MODEL.DALNET.GIA or LEA, and its weights."
        )
    shown = image_labels.nonzero().flatten().to(model.device)
    texts = model.projections.text(torch.cat([model.text_fg[shown], model.text_bg]))
    patch_tokens = tokens["patch_tokens"]
    patches = model.projections.visual(patch_tokens.flatten(2).transpose(1, 2))
    cosines = text_similarity(patches, texts).unflatten(2, patch_tokens.shape[-2:])[0]
    return dict(zip([*(1 + shown).tolist(), 0], cosines, strict=True))


def similarity_maps(model: DALNet, item: dict[str, Any]) -> dict[int, np.ndarray]:
    """The cosines of :func:`patch_similarities` at the photograph's size.

    Args:
        model: in evaluation mode.
        item: what ``DALNetMapper`` made of one photograph at test time.

    Returns:
        By label, float32 [H, W] in -1..1, in the same order.

    Raises:
        UsageError: as :func:`patch_similarities`.
    """
    cosines = patch_similarities(model, encode_photo(model, item), item["image_labels"])
    size = (item["height"], item["width"])
    small = torch.stack(list(cosines.values()))[None]
    maps = F.interpolate(small, size=size, mode="bilinear", align_corners=False)[0]
    return dict(zip(cosines, maps.cpu().numpy(), strict=True))

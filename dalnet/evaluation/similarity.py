# SPDX-License-Identifier: Apache-2.0
"""How near each patch of a photograph is to the texts of its classes and of the background."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dalnet.errors import UsageError
from dalnet.modeling import DALNet
from dalnet.modeling.alignment import text_similarity


@torch.no_grad()
def similarity_maps(model: DALNet, item: dict[str, Any]) -> dict[int, np.ndarray]:
    """Cosines, in the common space, of the last block's patch tokens with texts (Fig. 6).

    Args:
        model: in evaluation mode.
        item: what ``DALNetMapper`` made of one photograph at test time.

    Returns:
        By label, float32 [H, W] in -1..1 at the photograph's size: first the classes that the
        image shows by its image-level labels (c + 1 for class c of 0..C-1), then 0, the background.

    Raises:
        UsageError: the model was trained without alignment and so has no common space.
    """
    if model.projections is None:
        raise UsageError(
            "The model has no space that patches and texts share, as it was trained without "
            "alignment losses; give a config with MODEL.DALNET.GIA or LEA, and its weights."
        )
    shown = item["image_labels"].nonzero().flatten().to(model.device)
    texts = model.projections.text(torch.cat([model.text_fg[shown], model.text_bg]))
    passes = model.passes(item["image"].to(model.device).float()[None])
    tokens = passes.encode(passes.images)["patch_tokens"]
    patches = model.projections.visual(tokens.flatten(2).transpose(1, 2))
    cosines = text_similarity(patches, texts).unflatten(2, tokens.shape[-2:])
    size = (item["height"], item["width"])
    maps = F.interpolate(cosines, size=size, mode="bilinear", align_corners=False)[0]
    labels = [*(1 + shown).tolist(), 0]
    return dict(zip(labels, maps.cpu().numpy(), strict=True))

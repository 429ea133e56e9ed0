# SPDX-License-Identifier: Apache-2.0
"""Pre-trained weights of the visual encoder: from timm's hub or from a local file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import timm.models
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from dalnet.errors import UsageError
from dalnet.modeling.weight_files import (
    find_nan,
    find_part,
    local_file,
    read_state,
    refused_with,
)

logger = logging.getLogger(__name__)

_KEY = "MODEL.VIT.WEIGHTS"
# Parts that follow the tokens; an ImageNet checkpoint has them, this encoder has not.
_HEADS = ("head", "head_dist", "fc_norm", "attn_pool", "pre_logits")


def load_vit_weights(vit: VisionTransformer, name: str, weights: str) -> None:
    """Load ``weights`` into ``vit``, all of them or an error.

    Position and patch embeddings of another size are resized bilinearly by timm's own converters,
    which also understand the original DINOv2, DeiT III and CLIP layouts. Classifiers in the file
    are ignored.

    Args:
        vit: timm model without classifier.
        name: its timm name (tells the hub's file).
        weights: "timm" (the hub's file for ``name``, downloaded once), a path to ``.safetensors``,
            ``.pth``/``.pt`` (read with ``weights_only=True``) or ``.npz`` (the original format of
            ViT and AugReg), ``dalnet://NAME``, or "" to keep the random initialization. Of a
            larger model, such as that of a checkpoint, only the encoder is taken, see
            :func:`~dalnet.modeling.weight_files.find_part`.

    Raises:
        UsageError: file missing, unreadable, or not of this model.
    """
    if not weights:
        return
    path = Path()
    if weights == "timm":
        source, state = load_from_hub(name, _KEY)
    else:
        path = local_file(weights, _KEY, (".safetensors", ".pth", ".pt", ".npz"))
        source, state = str(path), {} if path.suffix == ".npz" else read_state(path, _KEY)
    with refused_with(
        "it does not fit the model of MODEL.VIT",
        source,
        "name the matching model and sizes, or another file",
    ):
        if path.suffix == ".npz":
            _load_npz(vit, path)
        else:
            _load_state(vit, state)
    logger.info("Loaded the weights of %s from %s.", name, source)


def load_from_hub(name: str, key: str) -> tuple[str, dict[str, Any]]:
    """Fetch timm's published weights of a model, once.

    Args:
        name: timm's name, with or without its pre-training tag.
        key: config key that asks for them, for messages.

    Returns:
        Repository and file on the hub, and the state dict in it.

    Raises:
        UsageError: there are none, or they cannot be fetched.
    """
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        raise UsageError(
            f"timm publishes no weights for {name}",
            where=key,
            hint='set it to a local file, or to "" for random weights',
        )
    file = published.hf_hub_filename or "model.safetensors"
    source = f"{published.hf_hub_id}/{file}"
    logger.info("Fetching the weights of %s from the Hugging Face hub (%s).", name, source)
    try:
        return source, timm.models.load_state_dict_from_hf(
            published.hf_hub_id, file, weights_only=True
        )
    except OSError as error:
        raise UsageError(
            f"the weights of {name} are neither in the local cache nor downloadable",
            where=key,
            hint=f"fetch {file} from https://huggingface.co/{published.hf_hub_id} on another "
            "machine and set the key to its path here",
        ) from error


def _load_state(vit: VisionTransformer, state: dict[str, Any]) -> None:
    state = find_part(state, vit.state_dict().keys())
    state = checkpoint_filter_fn(
        state, vit, adapt_layer_scale=True, interpolation="bilinear", antialias=False
    )
    vit.load_state_dict({k: v for k, v in state.items() if k.split(".")[0] not in _HEADS})


def _load_npz(vit: VisionTransformer, path: Path) -> None:
    vit.load_pretrained(str(path))
    if broken := find_nan(vit.state_dict()):
        raise ValueError(f"{broken} holds NaN")
    # timm leaves blocks beyond the model's depth unread.
    with np.load(path, allow_pickle=False) as arrays:
        surplus = f"/encoderblock_{len(vit.blocks)}/"
        if any(surplus in key for key in arrays.files):
            raise ValueError(f"it has more than the model's {len(vit.blocks)} blocks")

# SPDX-License-Identifier: Apache-2.0
"""A pre-trained CNN in place of the ViT's patch embedding.

Dosovitskiy et al. (ICLR 2021, Sec. 3.1) call the result a hybrid. Its tokens mean something before
the ViT has learned anything, which a small ViT needs many more photographs for.
"""

import logging

import timm
import timm.models
from timm.layers import freeze_batch_norm_2d
from torch import nn

from dalnet.modeling.backbone.weights import load_from_hub
from dalnet.modeling.weight_files import local_file, read_state, refused_with

logger = logging.getLogger(__name__)

_KEY = "MODEL.VIT.STEM_WEIGHTS"


def build_stem(name: str, weights: str, stride: int) -> nn.Module:
    """Return the convolutions of a timm classifier, dilated where they would shrink the map.

    Batch norms stay as they were pre-trained: training batches are small, and an image's tokens
    must not depend on its neighbours in the batch.

    Args:
        name: timm's name of a CNN.
        weights: "timm" (the hub's file for ``name``), or a path to the whole classifier's
            ``.safetensors``, ``.pth`` or ``.pt``; "" where a checkpoint follows, as random weights
            behind norms that do not learn are of no use. A file whose parts have other names than
            timm's is taken if they follow one another in timm's order, with timm's shapes.
        stride: pixels of the image for one place of the map.

    Returns:
        Module that maps images [N, 3, H, W] to a list of one map [N, D, H / stride, W / stride].

    Raises:
        UsageError: not a CNN of timm that can have this stride, or weights missing or misfit.
    """
    with refused_with(
        f"timm cannot build MODEL.VIT.STEM {name!r} with a stride of {stride}; choose a CNN of "
        "timm.list_models('*efficientnet*')"
    ):
        if not timm.is_model(name):
            raise ValueError(f"timm {timm.__version__} has no such model")
        stem = timm.create_model(name, features_only=True, out_indices=(-1,), output_stride=stride)
        if stem.feature_info.reduction() != [stride]:
            raise ValueError(f"its map has a stride of {stem.feature_info.reduction()[-1]}")
    if weights:
        _load(stem, name, weights)
    return freeze_batch_norm_2d(stem)


def _load(stem: nn.Module, name: str, weights: str) -> None:
    """Load the whole classifier's weights, of which the stem is a part."""
    if weights == "timm":
        source, state = load_from_hub(name, _KEY)
    else:
        path = local_file(weights, _KEY, (".safetensors", ".pth", ".pt"))
        source, state = str(path), read_state(path, _KEY)
    classifier = timm.create_model(name)
    with refused_with(
        f"{source} does not fit MODEL.VIT.STEM {name} (name the matching model or another file)"
    ):
        own = classifier.state_dict()
        if not state.keys() & own.keys() and len(state) == len(own):
            state = timm.models.remap_state_dict(state, classifier, allow_reshape=False)
        classifier.load_state_dict(state)
        # timm's feature extractors may write stages_0 where the classifier writes stages.0.
        loaded = {key.replace(".", "_"): value for key, value in classifier.state_dict().items()}
        stem.load_state_dict({key: loaded[key.replace(".", "_")] for key in stem.state_dict()})
    logger.info("Loaded the weights of %s from %s.", name, source)

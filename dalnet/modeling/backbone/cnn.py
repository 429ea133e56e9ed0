# SPDX-License-Identifier: Apache-2.0
"""CNNs of timm: as a Detectron2 backbone, and as the stem of a vision transformer."""

import logging
from typing import Any, cast

import timm
import timm.models
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import convert_sync_batchnorm
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dalnet.modeling.backbone.weights import load_from_hub
from dalnet.modeling.weight_files import find_part, local_file, read_state, refused_with

logger = logging.getLogger(__name__)

_PROBE = 128  # pixels of an image by which strides are found; a multiple of any CNN's stride
_STEM = ("conv1", "conv_stem", "bn1")  # what timm's CNNs call the layers before their stages


@BACKBONE_REGISTRY.register()
class TimmCNN(Backbone):
    """The convolutions of a timm classifier, whose last stages may keep the size of the map.

    Attributes:
        cnn: timm's feature extractor, which returns a list of maps, the last stage's behind others.
        embed_dim: channels D of the last stage's map.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        weights: str,
        stride: int = 16,
        dilate: bool = False,
        norm: str = "BN",
        freeze_stem: bool = True,
        lower_stages: tuple[int, ...] = (),
    ) -> None:
        """
        Args:
            name: timm's name of the model, with or without its pre-training tag.
            weights: "timm", a file or "", see :func:`load_cnn_weights`.
            stride, dilate: see :func:`create_cnn`.
            norm: "BN", whose statistics are those of the batch in training; "FixedBN", which keeps
                the statistics of the pre-training and learns scale and shift; "SyncBN".
            freeze_stem: train neither the first convolution nor scale and shift of its norm, whose
                statistics move nonetheless with "BN".
            lower_stages: stages before the last, in order, whose maps are returned as well.

        Raises:
            UsageError: unknown or unsuitable model, weights missing or misfit.
        """
        super().__init__()
        self._names = *(f"stage{stage}" for stage in lower_stages), "map"
        self.cnn = create_cnn(name, stride, dilate, "MODEL.CNN.NAME", (*lower_stages, -1))
        load_cnn_weights(self.cnn, name, weights, "MODEL.CNN.WEIGHTS")
        if norm == "SyncBN":
            self.cnn = convert_sync_batchnorm(self.cnn)
        self._fixed = norm == "FixedBN"
        info = cast(FeatureInfo, self.cnn.feature_info)
        self._channels = info.channels()
        self._strides = [min(one, stride) for one in info.reduction()]
        self.embed_dim: int = self._channels[-1]
        for part, module in self.cnn.named_children():
            if freeze_stem and part in _STEM:
                module.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``MODEL.CNN``; the input always has three channels."""
        return {key.lower(): value for key, value in cfg.MODEL.CNN.items()}

    def train(self, mode: bool = True) -> "TimmCNN":
        """Set the mode, in which fixed norms stay as they were pre-trained."""
        super().train(mode)
        if self._fixed:
            for module in self.cnn.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode normalized images ``[N, 3, H, W]``.

        Returns:
            ``map`` ``[N, D, h, w]``, h = ceil(H / stride) and w alike, and the maps of lower stages
            as ``stage1`` and so on.
        """
        return dict(zip(self._names, self.cnn(images), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the maps."""
        shapes = zip(self._names, self._channels, self._strides, strict=True)
        return {name: ShapeSpec(channels=width, stride=stride) for name, width, stride in shapes}


def create_cnn(
    name: str, stride: int, dilate: bool, key: str, levels: tuple[int, ...] = (-1,)
) -> nn.Module:
    """Return the convolutions of a timm classifier, with random weights.

    Args:
        name: timm's name of a CNN.
        stride: pixels of the image for one place of the last map.
        dilate: give the layers behind a stride that is left out a dilation, so that they see as far
            as they did in the pre-training; else only the stride is left out, as in CLIMS.
        key: config key that holds ``name``, for messages.
        levels: the stages, 0 to -1, whose maps are returned.

    Returns:
        Module that maps images ``[N, 3, H, W]`` to a list of maps, one for each level.

    Raises:
        UsageError: not a CNN of timm that can have this stride.
    """
    with refused_with(
        f"timm cannot build {name!r} with a stride of {stride}",
        where=key,
        hint="choose a CNN of timm.list_models('*efficientnet*') or '*resnet*'",
    ):
        if not timm.is_model(name):
            raise ValueError(f"timm {timm.__version__} has no such model")
        options = {"output_stride": stride} if dilate else {}
        cnn = timm.create_model(name, features_only=True, out_indices=levels, **options)
        found = _last_stride(cnn) if dilate else _limit_stride(cnn, stride)
        if found != stride:
            raise ValueError(f"its map has a stride of {found}")
    return cnn


def _limit_stride(cnn: nn.Module, stride: int) -> int:
    """Take the stride off the layers that shrink a map beyond ``stride``; return the last map's."""

    def take_off(layer: nn.Conv2d | nn.AvgPool2d, _: object, output: Tensor) -> None:
        if output.shape[-1] * stride < _PROBE:
            layer.stride = (1, 1)
            if isinstance(layer, nn.AvgPool2d):  # of a ResNet-D's shortcuts
                layer.kernel_size = (1, 1)

    hooks = [
        module.register_forward_hook(take_off)
        for module in cnn.modules()
        if isinstance(module, nn.Conv2d | nn.AvgPool2d) and module.stride not in (1, (1, 1))
    ]
    _last_stride(cnn)
    for hook in hooks:
        hook.remove()
    return _last_stride(cnn)


@torch.no_grad()
def _last_stride(cnn: nn.Module) -> int:
    # In evaluation mode, as the statistics of the norms would move.
    side = cnn.eval()(torch.zeros(1, 3, _PROBE, _PROBE))[-1].shape[-1]
    cnn.train()
    return _PROBE // side


def load_cnn_weights(cnn: nn.Module, name: str, weights: str, key: str) -> None:
    """Load the weights of a whole classifier, or of its convolutions, into :func:`create_cnn`'s.

    Args:
        cnn: the module.
        name: timm's name of the classifier.
        weights: "timm" (the hub's file for ``name``), or a path to ``.safetensors``, ``.pth`` or
            ``.pt`` with the whole classifier, with its convolutions alone or with a checkpoint of
            which :class:`TimmCNN` is the backbone; "" leaves it as it is. A classifier whose parts
            have other names than timm's is taken if they follow one another in timm's order, with
            timm's shapes.
        key: config key that holds ``weights``, for messages.

    Raises:
        UsageError: weights missing or misfit.
    """
    if not weights:
        return
    if weights == "timm":
        source, state = load_from_hub(name, key)
    else:
        path = local_file(weights, key, (".safetensors", ".pth", ".pt"))
        source, state = str(path), read_state(path, key)
    with refused_with(
        f"{key} names it, but it does not fit {name}",
        where=source,
        hint="name the matching model or another file",
    ):
        own = cnn.state_dict()
        state = find_part(state, own.keys())
        if own.keys() != state.keys():
            state = _trunk_of_classifier(own, name, state)
        cnn.load_state_dict(state)
    logger.info("Loaded the weights of %s from %s.", name, source)


def _trunk_of_classifier(
    own: dict[str, Tensor], name: str, state: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the tensors ``own`` out of a whole classifier's."""
    classifier = timm.create_model(name)
    rows = state.get(f"{classifier.default_cfg.get('classifier')}.weight")
    if rows is not None and len(rows) != classifier.num_classes:
        classifier = timm.create_model(name, num_classes=len(rows))  # trained on other classes
    named = classifier.state_dict()
    if not state.keys() & named.keys() and len(state) == len(named):
        state = timm.models.remap_state_dict(state, classifier, allow_reshape=False)
    classifier.load_state_dict(state)
    # timm's feature extractors may write stages_0 where the classifier writes stages.0.
    loaded = {part.replace(".", "_"): value for part, value in classifier.state_dict().items()}
    return {part: loaded[part.replace(".", "_")] for part in own}

# SPDX-License-Identifier: Apache-2.0
"""A CNN in the place of the ViT, for systems whose encoder is one (CLIMS)."""

import torch
from torch import Tensor, nn

from dalnet.modeling.backbone import TimmCNN


class CNNTokens(nn.Module):
    """The places of a CNN's map as tokens, behind a first one, their mean.

    Attributes:
        cnn: timm's feature extractor, the trunk of :class:`TimmCNN`.
        embed_dim: width D of the tokens.
        num_prefix_tokens: 1.
    """

    num_prefix_tokens = 1

    def __init__(self, name: str, stride: int) -> None:
        """Take timm's name of the CNN, and the pixels of one place of its map."""
        super().__init__()
        backbone = TimmCNN(name=name, weights="", stride=stride, freeze_stem=False)
        self.cnn, self.embed_dim = backbone.cnn, backbone.embed_dim

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the tokens ``[N, 1 + P, D]`` of normalized images ``[N, 3, H, W]``."""
        # Half the time of float32 where the processor has instructions for it.
        with torch.autocast(images.device.type, torch.bfloat16):
            tokens = self.cnn(images)[-1].flatten(2).mT.float()  # [N, P, D]
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)

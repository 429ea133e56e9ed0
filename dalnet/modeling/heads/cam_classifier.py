# SPDX-License-Identifier: Apache-2.0
"""Image classifier over patch tokens whose weight gives the CAM."""

import torch.nn.functional as F
from torch import Tensor, nn


class CAMClassifier(nn.Module):
    """Image classifier over patch tokens whose weight also gives the CAM.

    Global pooling per channel, then a linear layer without bias. The same weight as a 1x1
    convolution is the raw CAM.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        pooling: str = "max",
        zero_weight: bool = False,
    ) -> None:
        """
        Args:
            in_channels: width D of the tokens.
            num_classes: number C of foreground classes.
            pooling: "max" (ToCo, CVPR 2023; the DALNet paper says max pooling) or "mean" (CAM,
                CVPR 2016).
            zero_weight: start from a weight of zeros instead of PyTorch's random one. A random
                weight points somewhere, so that chance has a part in where the first CAMs are.
        """
        super().__init__()
        self.pooling = pooling
        self.linear = nn.Linear(in_channels, num_classes, bias=False)
        if zero_weight:
            nn.init.zeros_(self.linear.weight)

    def logits(self, tokens: Tensor) -> Tensor:
        """Classify patch tokens ``[N, D, h, w]``; returns logits ``[N, C]``."""
        pool = tokens.amax if self.pooling == "max" else tokens.mean
        return self.linear(pool(dim=(2, 3)))

    def cam(self, tokens: Tensor) -> Tensor:
        """Return the raw CAMs ``[N, C, h, w]``, of any sign, of tokens ``[N, D, h, w]``."""
        return F.conv2d(tokens, self.linear.weight[:, :, None, None])

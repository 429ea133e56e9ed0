# SPDX-License-Identifier: Apache-2.0
"""Image classifier over patch tokens whose weight gives the CAM."""

import torch.nn.functional as F
from torch import Tensor, nn


class CAMClassifier(nn.Module):
    """Image classifier over patch tokens whose weight also gives the CAM.

    Global max pooling per channel, then a linear layer without bias (ToCo, CVPR 2023; the DALNet
    paper says max pooling). The same weight as a 1x1 convolution is the raw CAM.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        """Take the width D of the tokens and the number C of foreground classes."""
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes, bias=False)

    def logits(self, tokens: Tensor) -> Tensor:
        """Classify patch tokens ``[N, D, h, w]``; returns logits ``[N, C]``."""
        return self.linear(tokens.amax(dim=(2, 3)))

    def cam(self, tokens: Tensor) -> Tensor:
        """Return the raw CAMs ``[N, C, h, w]``, of any sign, of tokens ``[N, D, h, w]``."""
        return F.conv2d(tokens, self.linear.weight[:, :, None, None])

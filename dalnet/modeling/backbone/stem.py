# SPDX-License-Identifier: Apache-2.0
"""A pre-trained CNN in place of the ViT's patch embedding.

Dosovitskiy et al. (ICLR 2021, Sec. 3.1) call the result a hybrid. Its tokens mean something before
the ViT has learned anything, for which a small ViT would need many more images.
"""

from timm.layers import freeze_batch_norm_2d
from torch import nn

from dalnet.modeling.backbone.cnn import create_cnn, load_cnn_weights


def build_stem(name: str, weights: str, stride: int) -> nn.Module:
    """Return the convolutions of a timm classifier, dilated where they would shrink the map.

    Batch norms stay as they were pre-trained, because training batches are small, and because an
    image's tokens must not depend on the other images of its batch.

    Args:
        name: timm's name of a CNN.
        weights: see :func:`dalnet.modeling.backbone.cnn.load_cnn_weights`; "" where a checkpoint
            follows, as random weights behind norms that do not learn are of no use.
        stride: pixels of the image for one place of the map.

    Returns:
        Module that maps images [N, 3, H, W] to a list of one map [N, D, H / stride, W / stride].

    Raises:
        UsageError: not a CNN of timm that can have this stride, or weights missing or misfit.
    """
    stem = create_cnn(name, stride, True, "MODEL.VIT.STEM")
    load_cnn_weights(stem, name, weights, "MODEL.VIT.STEM_WEIGHTS")
    return freeze_batch_norm_2d(stem)

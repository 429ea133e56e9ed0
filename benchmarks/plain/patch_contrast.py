# SPDX-License-Identifier: Apache-2.0
"""Patch-token contrast as published (ToCo, CVPR 2023): a label for each pair of tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_labels(labels: Tensor, ignore: int) -> Tensor:
    """[N, P, P] from labels [N, h, w]: 1 for pairs of one label, 0 for others, or ``ignore``."""
    flat = labels.flatten(1)
    count = flat.shape[1]
    columns = flat[:, None, :].repeat(1, count, 1)
    rows = columns.permute(0, 2, 1)
    pairs = (columns == rows).long()
    for i in range(len(flat)):
        left_out = flat[i] == ignore
        pairs[i, :, left_out] = ignore
        pairs[i, left_out, :] = ignore
    pairs[:, range(count), range(count)] = ignore
    return pairs


def published_patch_contrast(tokens: Tensor, labels: Tensor, ignore: int = 255) -> Tensor:
    """Arguments and result as ``dalnet.modeling.losses.patch_token_contrast``."""
    pairs = pair_labels(labels, ignore)
    unit = F.normalize(tokens.flatten(2), p=2, dim=1, eps=1e-8)
    cosine = torch.matmul(unit.transpose(1, 2), unit).abs()
    same, other = (pairs == 1).int(), (pairs == 0).int()
    attract = torch.sum(same * cosine) / (same.sum() + 1)
    repel = torch.sum(other * cosine) / (other.sum() + 1)
    return 0.5 * (1 - attract) + 0.5 * repel

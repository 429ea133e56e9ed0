# SPDX-License-Identifier: Apache-2.0
"""Image logits and raw CAMs of one weight."""

import pytest
import torch

from dalnet.modeling.heads import CAMClassifier


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_logits_and_cams_by_hand(pooling):
    torch.manual_seed(0)
    classifier = CAMClassifier(5, 3, pooling)
    (weight,) = classifier.parameters()
    tokens = torch.randn(2, 5, 4, 6)
    places = tokens.flatten(2)
    pooled = places.max(dim=2).values if pooling == "max" else places.sum(dim=2) / 24
    torch.testing.assert_close(classifier.logits(tokens), pooled @ weight.T)
    expected = torch.einsum("cd,ndhw->nchw", weight, tokens)
    torch.testing.assert_close(classifier.cam(tokens), expected)
    if pooling == "mean":
        torch.testing.assert_close(expected.mean(dim=(2, 3)), classifier.logits(tokens))

# SPDX-License-Identifier: Apache-2.0
"""A CNN of timm with random weights, in memory and in a file; a test module's ``CNN`` names it."""

import pytest
import timm
import torch
from safetensors.torch import save_file


@pytest.fixture
def randomized():
    """``randomized(model)`` gives a CNN weights and statistics that do something."""

    def randomize(model):
        torch.manual_seed(0)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) / 4
                )
        return model.eval()

    return randomize


@pytest.fixture
def classifier(request, randomized):
    """The whole CNN."""
    return randomized(timm.create_model(request.module.CNN))


@pytest.fixture
def weights(classifier, tmp_path):
    """The path of a file of its weights."""
    path = tmp_path / "cnn.safetensors"
    save_file(classifier.state_dict(), path)
    return str(path)

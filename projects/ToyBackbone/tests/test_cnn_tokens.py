# SPDX-License-Identifier: Apache-2.0
"""A CNN in the place of the ViT: its tokens, its training and the file that it leaves."""

import torch

from dalnet.modeling.backbone import TimmCNN
from dalnet_toy_backbone.cnn_tokens import CNNTokens
from dalnet_toy_backbone.train import TrainOptions, save_encoder, train


def test_tokens_are_the_places_of_the_map_behind_their_mean():
    torch.manual_seed(0)
    model = CNNTokens("test_resnet", 8).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        tokens, (feature_map,) = model.forward_features(images), model.cnn(images)
    assert feature_map.shape == (2, model.embed_dim, 12, 12)
    # In bfloat16.
    places = feature_map.flatten(2).mT
    torch.testing.assert_close(tokens[:, 1:], places, rtol=0.1, atol=0.05)
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


def test_its_trunk_is_what_the_backbone_loads(tmp_path):
    options = TrainOptions(
        iterations=2, batch_size=2, memory=5, initial=3, fresh=1, cnn="test_resnet"
    )
    model = train(options, tmp_path / "run").eval()
    assert all(p.grad is not None for p in model.parameters())
    save_encoder(model, tmp_path / "trunk.safetensors")
    path = str(tmp_path / "trunk.safetensors")
    loaded = TimmCNN(name="test_resnet", weights=path, stride=8).eval()
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(images)["map"], model.vit.cnn(images)[0], rtol=1e-2, atol=1e-2
        )

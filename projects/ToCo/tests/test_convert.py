# SPDX-License-Identifier: Apache-2.0
"""ToCo's published checkpoints: a stub with their names, as a network of its own."""

import pytest
import torch
import torch.nn.functional as F
from helpers import make_model, refused

from dalnet.checkpoint import config_of_checkpoint, load_model
from dalnet.checkpoint.convert import convert_checkpoint
from dalnet_toco.convert import convert_state, main


def published_state(model):
    """Weights of ``model`` by the published names: DataParallel, convolutions without bias."""
    state = {"encoder.head.weight": torch.zeros(7, 24), "encoder.head.bias": torch.zeros(7)}
    for key, value in model.state_dict().items():
        if key.startswith("backbone.vit."):
            state[f"encoder.{key[13:]}"] = value
    for name, head in (("classifier", "classifier"), ("aux_classifier", "inter_classifier")):
        state[f"{name}.weight"] = getattr(model, head).linear.weight.data[:, :, None, None]
    for name, conv in (("conv6", "conv1"), ("conv7", "conv2"), ("conv8", "predictor")):
        state[f"decoder.{name}.weight"] = getattr(model.sem_seg_head, conv).weight.data
    for name, part in (("proj_head", "student"), ("proj_head_t", "teacher")):
        head = getattr(model.class_contrast, part)
        for key, value in head.mlp.state_dict().items():
            state[f"{name}.mlp.{key}"] = value
        state[f"{name}.last_layer.weight_v"] = head.rows.data
        state[f"{name}.last_layer.weight_g"] = torch.ones(len(head.rows), 1)
    return {f"module.{key}": value for key, value in state.items()}


@pytest.fixture
def case(tiny_cfg, tmp_path):
    """A published file, its config, and the model that it is of."""
    model = make_model(tiny_cfg).eval()
    for conv in (model.sem_seg_head.conv1, model.sem_seg_head.conv2, model.sem_seg_head.predictor):
        torch.nn.init.zeros_(conv.bias)
    (tmp_path / "toco.yaml").write_text(tiny_cfg.dump())
    torch.save(published_state(model), tmp_path / "published.pth")
    return tmp_path, model


def test_a_converted_checkpoint_is_the_same_network(case):
    folder, model = case
    paths = [str(folder / name) for name in ("published.pth", "ours.pth", "toco.yaml")]
    main([*paths[:2], "--config", paths[2]])
    loaded = load_model(config_of_checkpoint(folder / "ours.pth")).eval()
    assert type(loaded).__name__ == "ToCo" and loaded.class_names[1] == "goldfish"
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_maps_are_those_of_the_published_layers(case):
    """The published network's own last layers, applied to our encoder's tokens."""
    folder, model = case
    state = torch.load(folder / "published.pth", weights_only=True)
    features = model.backbone(torch.randn(1, 3, 32, 32))
    seen = F.conv2d(
        features["patch_tokens"], state["module.decoder.conv6.weight"], padding=1
    ).relu()
    seen = F.conv2d(seen, state["module.decoder.conv7.weight"], padding=1).relu()
    expected = F.conv2d(seen, state["module.decoder.conv8.weight"])
    torch.testing.assert_close(model.maps("sem_seg", features), expected)
    expected = F.conv2d(features["inter_tokens"], state["module.aux_classifier.weight"])
    torch.testing.assert_close(model.maps("cam_inter", features), expected)


def test_biases_that_the_file_has_are_kept(case):
    _, model = case
    bias = torch.arange(float(len(model.sem_seg_head.conv1.bias)))
    state = convert_state({**published_state(model), "module.decoder.conv6.bias": bias})
    assert torch.equal(state["sem_seg_head.conv1.bias"], bias)
    assert not state["sem_seg_head.conv2.bias"].any()


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(()), "text"])
def test_weights_of_another_form_end_in_a_sentence(case, value):
    folder, model = case
    torch.save({**published_state(model), "module.classifier.weight": value}, folder / "odd.pth")
    config = str(folder / "toco.yaml")
    with refused("odd.pth"):
        convert_checkpoint(str(folder / "odd.pth"), folder / "ours.pth", config, convert_state)


def test_a_weight_of_another_network_is_named(case):
    folder, model = case
    with refused("", "module.layer4.weight"):
        convert_state({**published_state(model), "module.layer4.weight": torch.zeros(1)})


@pytest.mark.parametrize("opts", [("MODEL.VIT.DEPTH", 1), ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 8)])
def test_another_config_is_refused_and_nothing_is_written(case, opts):
    folder, _ = case
    source, config = str(folder / "published.pth"), str(folder / "toco.yaml")
    with refused("published.pth", "toco.yaml"):
        convert_checkpoint(source, folder / "ours.pth", config, convert_state, opts)
    assert not (folder / "ours.pth").exists()

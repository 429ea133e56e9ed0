# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints: files of their names and layout, made for the purpose."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from helpers import refused

from clims.convert import choose_config, convert_state, main
from dalnet.checkpoint import config_of_checkpoint, load_model


def published_state(model):
    """Every weight under several names, and the classifier as a convolution."""
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("backbone.cnn."):
            name = key.removeprefix("backbone.cnn.")
            stage = "stage1.0" if name.startswith("conv1") else "backbone.3"
            for prefix in ("resnet50", stage):
                state[f"{prefix}.{name}"] = value
    weight = model.classifier.linear.weight.data[:, :, None, None]
    return {**state, "classifier.weight": weight, "newly_added.0.weight": weight}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_converted_checkpoint_is_the_same_network(stage0_cfg, tmp_path, prefix, capsys):
    torch.manual_seed(0)
    model = build_model(stage0_cfg).eval()
    state = {f"{prefix}{key}": value for key, value in published_state(model).items()}
    torch.save(state, tmp_path / "published.pth")
    (tmp_path / "stage0.yaml").write_text(stage0_cfg.dump())
    paths = [str(tmp_path / name) for name in ("published.pth", "ours.pth", "stage0.yaml")]
    main([*paths[:2], "--config", paths[2]])
    assert "stage0.yaml" in capsys.readouterr().out
    loaded = load_model(config_of_checkpoint(paths[1])).eval()
    assert type(loaded).__name__ == "CAMBaseline" and loaded.class_names[1] == "goldfish"
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    # The published network's own last layer.
    features = loaded.encode(torch.randn(1, 3, 64, 64))
    expected = F.conv2d(features["map"], state[f"{prefix}classifier.weight"])
    torch.testing.assert_close(loaded.maps("cam", features), expected)


def test_a_resnet_50_has_the_published_names(tmp_path):
    import timm

    names = {
        "conv1.weight",
        "bn1.running_var",
        "layer4.0.downsample.1.bias",
        "layer3.5.conv2.weight",
    }
    trunk = timm.create_model("resnet50", features_only=True).state_dict()
    assert names <= trunk.keys() and len(trunk) == 318


@pytest.mark.parametrize(("count", "name"), [(20, "voc_clims.yaml"), (80, "coco_clims.yaml")])
def test_the_recipe_follows_from_the_number_of_classes(count, name):
    state = {"resnet50.conv1.weight": torch.zeros(1)}
    state["classifier.weight"] = torch.zeros(count, 8, 1, 1)
    assert choose_config(state).endswith(f"configs/{name}")


def test_files_of_another_network_are_refused():
    with refused("source", "resnet50"):
        convert_state({"layer4.weight": torch.zeros(1), "classifier.weight": torch.zeros(1)})
    with refused("source", "classifier"):
        convert_state({"resnet50.conv1.weight": torch.zeros(1)})
    state = {"resnet50.conv1.weight": torch.zeros(1), "classifier.weight": torch.zeros(7, 8, 1, 1)}
    with refused("config", "7 classes"):
        choose_config(state)


def test_a_file_of_another_width_is_refused_and_nothing_is_written(stage0_cfg, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(published_state(build_model(stage0_cfg)), tmp_path / "published.pth")
    stage0_cfg.MODEL.CNN.NAME = "resnet18"
    (tmp_path / "stage0.yaml").write_text(stage0_cfg.dump())
    paths = [str(tmp_path / name) for name in ("published.pth", "ours.pth", "stage0.yaml")]
    with pytest.raises(SystemExit):
        main([*paths[:2], "--config", paths[2]])
    assert "published.pth" in capsys.readouterr().err
    assert not (tmp_path / "ours.pth").exists()

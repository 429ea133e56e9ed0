# SPDX-License-Identifier: Apache-2.0
"""Models and configs that checkpoints give."""

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from helpers import refused

from dalnet.checkpoint import (
    Checkpointer,
    config_for,
    config_of_checkpoint,
    load_model,
    models,
)


def test_its_config_builds_the_model_without_data_set_and_weights(
    make, tiny_cfg, tmp_path, monkeypatch, info_of
):
    model = make(1)
    cfg = tiny_cfg.clone()
    cfg.merge_from_list(["MODEL.VIT.WEIGHTS", "timm", "MODEL.CLIP.SOURCE", "tower"])
    Checkpointer(model, str(tmp_path), info=info_of(cfg)).save("model")
    monkeypatch.setattr(MetadataCatalog, "get", None)
    found = config_of_checkpoint(tmp_path, ["TEST.EVAL_CAM", "False"])
    assert not found.TEST.EVAL_CAM
    loaded = load_model(found)
    assert loaded.class_names == model.class_names
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_a_model_is_used_with_its_own_config_or_that_of_a_file(
    make, saved, tiny_cfg, tmp_path, info_of
):
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    Checkpointer(make(1), str(run), info=info_of(tiny_cfg)).save("model_final")
    file.write_text(tiny_cfg.dump())
    path = str(run / "model_final.pth")
    for cfg in (
        *(config_for(run), config_for(opts=["MODEL.WEIGHTS", str(run)])),
        *(config_for(run, str(file)), config_for("", str(file), ["MODEL.WEIGHTS", path])),
    ):
        assert (path, "checkpoint") == (cfg.MODEL.WEIGHTS, cfg.MODEL.CLIP.SOURCE)
        assert tuple(cfg.MODEL.CLASS_NAMES) == tuple(info_of(tiny_cfg).class_names)
        assert not cfg.MODEL.VIT.WEIGHTS
    assert str(run) == config_for(run).OUTPUT_DIR
    assert config_for(run, opts=["OUTPUT_DIR", "here"]).OUTPUT_DIR == "here"
    assert config_for(run, str(file)).OUTPUT_DIR == tiny_cfg.OUTPUT_DIR
    for config in (None, str(file)):
        with refused("weights"):
            config_for(config=config)
    # A config whose data set is not here takes the checkpoint's classes.
    elsewhere = ["DATASETS.TRAIN", "('elsewhere_train',)"]
    cfg = config_for(run, str(file), elsewhere)
    assert list(cfg.MODEL.CLASS_NAMES) == info_of(tiny_cfg).class_names
    assert list(cfg.MODEL.PROMPT_NAMES) == info_of(tiny_cfg).prompt_names


def test_checkpoints_of_before_are_taken_with_a_warning(make, saved, caplog):
    path = saved(make(1))
    with caplog.at_level("WARNING"):
        Checkpointer(make(2)).load(path)
    assert path in caplog.text
    with refused(path, "name its config file"):
        config_of_checkpoint(path)


def test_a_system_that_is_not_installed_is_named(make, tiny_cfg, tmp_path, info_of):
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg, system="os")).save("model")
    with refused("model.pth", "'os'", "pip install"):
        config_of_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("text", ["MODEL: 3", "MODEL:", "3"])
def test_a_config_of_another_form_is_refused(make, tiny_cfg, tmp_path, info_of, text):
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg, config=text)).save("model")
    with refused(tmp_path, "config cannot be read"):
        config_of_checkpoint(tmp_path)


def test_keys_that_are_not_known_here_are_named_and_left_out(
    make, tiny_cfg, tmp_path, caplog, info_of
):
    content = {**yaml.safe_load(tiny_cfg.dump()), "LATER": {"KEY": 1}}
    content["MODEL"] |= {"SOONER": 2, "OTHER_SYSTEM": {"KEY": 3}}
    config = yaml.safe_dump(content)
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg, config=config)).save("model")
    with caplog.at_level("WARNING"):
        config_of_checkpoint(tmp_path / "model.pth")
    assert "LATER" in caplog.text and "MODEL.SOONER" in caplog.text
    assert "OTHER_SYSTEM" not in caplog.text  # of a system that is not installed


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_models_beyond_memory(tiny_cfg, monkeypatch, error):
    def fail(cfg):
        raise error

    monkeypatch.setattr(models, "build_model", fail)
    with refused("MODEL.WEIGHTS", "does not fit into memory"):
        load_model(tiny_cfg)

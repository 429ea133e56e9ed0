# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what they say about themselves, and what is refused."""

import dataclasses

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from helpers import refused
from safetensors.torch import save_file
from torch import nn

from dalnet.checkpoint import (
    Checkpointer,
    CheckpointInfo,
    checkpoint_hash,
    config_for,
    config_of_checkpoint,
    expect_checkpoint,
    load_model,
    read_info,
)
from dalnet.errors import UsageError
from dalnet.modeling.clip import FrozenCLIP

TEXTS = ("text_fg", "text_bg")


@pytest.fixture
def make(tiny_cfg):
    """Builds models of the tiny config with changed keys, from weights of their own."""

    def build(seed, *options):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list(list(options))
        torch.manual_seed(seed)
        return build_model(cfg)

    return build


@pytest.fixture
def saved(tmp_path):
    def save(model):
        Checkpointer(model, str(tmp_path)).save("model")
        return str(tmp_path / "model.pth")

    return save


def test_what_fits_is_taken_and_the_rest_stays(make, saved):
    source = make(1, "MODEL.DALNET.PROJECTION_DIM", 8)
    path = saved(source)
    source, model = source.state_dict(), make(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Checkpointer(model).start_from(path, keep=TEXTS)
    for key, value in model.state_dict().items():
        fresh = key.startswith("projections.")
        assert torch.equal(value, before[key] if fresh else source[key]), key


def test_texts_are_kept_or_taken(make, saved):
    source = make(1)
    source.text_fg.fill_(7.0)
    path, model = saved(source), make(2)
    own = model.text_fg.clone()
    Checkpointer(model).start_from(path, keep=TEXTS)
    assert torch.equal(model.text_fg, own)
    Checkpointer(model).start_from(path)
    assert torch.equal(model.text_fg, source.text_fg)


def test_dalnet_starts_from_a_plain_vit(make, saved):
    path = saved(make(1, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False))
    model = make(2)
    Checkpointer(model).start_from(path, keep=TEXTS)
    with refused("model.pth", "text_fg"):
        Checkpointer(model).start_from(path)


def test_another_encoder_is_refused(make, saved):
    path = saved(make(1, "MODEL.VIT.DEPTH", 1))
    with refused("model.pth", "backbone."):
        Checkpointer(make(2)).start_from(path, keep=TEXTS)


def test_elsewhere_everything_has_to_fit(make, saved):
    path = saved(make(1, "MODEL.DALNET.PROJECTION_DIM", 8))
    checkpointer = Checkpointer(make(2))
    checkpointer.start_from(path, keep=TEXTS)
    with refused("model.pth", "projections"):
        checkpointer.load(path)


@pytest.mark.parametrize(
    ("before", "now", "extra"),
    [
        (("MODEL.DALNET.TEXT_PROJECTION", "linear"), (), "projections.text.bias"),
        ((), ("MODEL.VIT.DEPTH", 1, "MODEL.VIT.INTERMEDIATE_BLOCK", 1), "backbone.vit.blocks.1."),
    ],
)
def test_nothing_of_a_part_may_be_left_over(make, saved, before, now, extra):
    with refused("model.pth", extra):
        Checkpointer(make(2, *now)).load(saved(make(1, *before)))


def test_a_frozen_clip_is_neither_saved_nor_missed(make, saved):
    source, model = make(1), make(2)
    for owner, value in ((source, 1.0), (model, 2.0)):
        owner.clip = FrozenCLIP(nn.Linear(2, 2), None, text_only=False)
        nn.init.constant_(owner.clip.model.weight, value)
    path = saved(source)
    assert not [key for key in torch.load(path)["model"] if key.startswith("clip")]
    Checkpointer(model).load(path)
    assert (model.clip.model.weight == 2).all()
    assert torch.equal(model.classifier.linear.weight, source.classifier.linear.weight)


def test_parts_that_the_model_lacks_may_be_left_over(make, saved):
    source = make(1)
    model = make(2, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False)
    Checkpointer(model).load(saved(source))
    source = source.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


def load_line(path):
    Checkpointer(torch.nn.Linear(1, 1)).load(str(path))


@pytest.mark.parametrize("kept", [-8, 20, 0])
def test_cut_safetensors_are_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    save_file(torch.nn.Linear(1, 1).state_dict(), path)
    load_line(path)
    path.write_bytes(path.read_bytes()[:kept])
    with refused("cut.safetensors"):
        load_line(path)


def test_files_of_no_known_format_are_refused(tmp_path):
    (tmp_path / "text.pkl").write_text("abc")
    with refused("text.pkl"):
        load_line(tmp_path / "text.pkl")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "where a model's tensors belong it holds a Tensor"),
        ([torch.zeros(3)], "it holds a list"),
        (None, "it holds a NoneType"),
        ({"model": [torch.zeros(3)]}, "it holds a list"),
        ({"model": None}, "it holds a NoneType"),
        ({"model": "text"}, "it holds a str"),
        ({"model": {"weight": "text"}}, "under 'weight' it holds a str"),
        ({"model": {3: torch.zeros(3)}}, "under 3 it holds a Tensor instead of a named tensor"),
    ],
)
def test_what_is_no_models_state_is_refused(tmp_path, content, fault):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with refused("odd.pth", fault):
        load_line(path)


def test_bare_state_dicts_are_taken(tmp_path):
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "bare.pth")
    load_line(tmp_path / "bare.pth")


def test_addresses_with_nothing_behind_them_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for address in ("http://127.0.0.1:1/x.pth", "catalog://nothing"):
        for use in (load_line, checkpoint_hash):
            with pytest.raises(UsageError, match=f"MODEL.WEIGHTS names {address}, which cannot be"):
                use(address)


def info_of(cfg, **changes):
    return dataclasses.replace(CheckpointInfo.of_training(cfg), **changes)


def test_a_checkpoint_says_what_it_knows(make, tiny_cfg, tmp_path):
    info = info_of(tiny_cfg)
    Checkpointer(make(1), str(tmp_path), info=info).save("model")
    assert read_info(tmp_path / "model.pth") == info
    assert info.class_names[:2] == ["background", "goldfish"] and len(info.class_names) == 11
    assert info.prompt_names == info.class_names[1:]
    assert info.system == "DALNet" and {"dalnet", "torch", "detectron2"} <= set(info.versions)
    data = torch.load(tmp_path / "model.pth", weights_only=True)["dalnet"]
    kinds = {type(value) for value in data.values()}
    assert kinds <= {str, list, dict}


def test_its_config_builds_the_model_without_data_set_and_weights(
    make, tiny_cfg, tmp_path, monkeypatch
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


def test_a_model_is_used_with_its_own_config_or_that_of_a_file(make, saved, tiny_cfg, tmp_path):
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
    for config in ("", str(file)):
        with refused("weights"):
            config_for(config=config)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["background", "leaf", "goldfish"], "'leaf', not 'goldfish'"),
        (["background", "goldfish"], "2, not 11"),
    ],
)
def test_other_classes_are_refused_even_if_they_are_as_many(make, tiny_cfg, tmp_path, names, part):
    own = list(info_of(tiny_cfg).class_names)
    info = info_of(tiny_cfg, class_names=names + own[3:] if len(names) == 3 else names)
    Checkpointer(make(1), str(tmp_path), info=info).save("model")
    path = str(tmp_path / "model.pth")
    with refused("model.pth", part):
        Checkpointer(make(2)).load(path)
    # Another training may know other classes, if it has texts of its own.
    model = make(2)
    Checkpointer(model).start_from(path, keep=TEXTS)
    with refused("model.pth", part):
        Checkpointer(make(2)).start_from(path)
    # Not so where the classifier is taken over.
    model.keeps_classes = True
    with refused("model.pth", part):
        Checkpointer(model).start_from(path, keep=TEXTS)


def test_checkpoints_of_before_are_taken_with_a_warning(make, saved, caplog):
    path = saved(make(1))
    with caplog.at_level("WARNING"):
        Checkpointer(make(2)).load(path)
    assert path in caplog.text
    with refused(path, "name its config file"):
        config_of_checkpoint(path)


def test_a_system_that_is_not_installed_is_named(make, tiny_cfg, tmp_path):
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg, system="os")).save("model")
    with refused("model.pth", "'os'", "pip install"):
        config_of_checkpoint(tmp_path / "model.pth")


def test_keys_that_are_not_known_here_are_named_and_left_out(make, tiny_cfg, tmp_path, caplog):
    content = {**yaml.safe_load(tiny_cfg.dump()), "LATER": {"KEY": 1}}
    content["MODEL"] |= {"SOONER": 2, "OTHER_SYSTEM": {"KEY": 3}}
    config = yaml.safe_dump(content)
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg, config=config)).save("model")
    with caplog.at_level("WARNING"):
        config_of_checkpoint(tmp_path / "model.pth")
    assert "LATER" in caplog.text and "MODEL.SOONER" in caplog.text
    assert "OTHER_SYSTEM" not in caplog.text  # of a system that is not installed


@pytest.mark.parametrize("key", ["system", "class_names", "config"])
def test_damaged_descriptions_are_refused(make, tiny_cfg, tmp_path, key):
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg)).save("model")
    path = tmp_path / "model.pth"
    data = torch.load(path, weights_only=True)
    data["dalnet"][key] = 3
    torch.save(data, path)
    with refused("model.pth", f"'{key}'"):
        config_of_checkpoint(path)


def test_a_resumed_training_still_says_what_it_began_with(make, tiny_cfg, tmp_path):
    begun = tiny_cfg.clone()
    begun.MODEL.VIT.WEIGHTS, begun.MODEL.CLIP.SOURCE = "timm", "tower"
    Checkpointer(make(1), str(tmp_path), info=info_of(begun)).save("model")
    resumed = tiny_cfg.clone()
    resumed.SOLVER.MAX_ITER = 77
    expect_checkpoint(resumed)
    checkpointer = Checkpointer(make(2), str(tmp_path), info=info_of(resumed))
    checkpointer.load(str(tmp_path / "model.pth"))
    checkpointer.save("later")
    config = yaml.safe_load(read_info(tmp_path / "later.pth").config)
    assert (config["MODEL"]["VIT"]["WEIGHTS"], config["MODEL"]["CLIP"]["SOURCE"]) == (
        "timm",
        "tower",
    )
    assert config["SOLVER"]["MAX_ITER"] == 77

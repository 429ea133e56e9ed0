# SPDX-License-Identifier: Apache-2.0
"""The converter on a file of the published names and layout, made for the purpose."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers import refused
from omegaconf import OmegaConf

from codeseg.convert import convert_state, main
from dalnet.checkpoint import Checkpointer
from dalnet.checkpoint.convert import convert_checkpoint
from dalnet.prediction import Predictor

_PLAIN = {
    "highlights.image": "learnable_image_bg",
    "word_affine.w": "text_mask_w",
    "word_affine.b": "text_mask_b",
    "noun_prompt.context": "clip_text_encoder.prompt_learner.ctx",
    "decoder.proj": "masker.image_encoder.decoder.image_proj.proj",
    "region_affine.w": "masker.sim2mask.w",
    "region_affine.b": "masker.sim2mask.b",
    "criterion.log_scales.hli": "tcli_loss.logit_scale",
    "criterion.log_scales.hlf": "tclf_loss.logit_scale",
    "criterion.log_scales.hcl": "hcl_loss.logit_scale",
}
_DECODER = "masker.image_encoder.decoder."


def published_name(key):
    """The published name of one of our weights, written down once more by hand."""
    if key in _PLAIN:
        return _PLAIN[key]
    if key == "highlights.words":
        return "bg_text"
    if key.startswith("backbone.block."):
        rest = key.removeprefix("backbone.block.")
        return f"masker.image_encoder.backbone.transformer.resblocks.11.{rest}"
    if key.startswith("decoder.norm."):
        return f"{_DECODER}image_proj.ln.{key.removeprefix('decoder.norm.')}"
    if key.startswith("decoder.layers."):
        number, rest = key.removeprefix("decoder.layers.").split(".", 1)
        return f"{_DECODER}decoder.net.{number}.conv.{'gate.gate' if rest == 'gate' else rest}"
    return key.replace("word_decoder.blocks.", "text_decoder.transformer.resblocks.")


@pytest.fixture
def published_state(code_cfg):
    torch.manual_seed(3)
    model = build_model(code_cfg)
    state = {}
    for key, value in model.state_dict().items():
        if key == "clip_mark":
            continue
        value = torch.randn_like(value)
        if key == "highlights.words":
            value = value[:, None]
        if key.startswith("criterion"):
            value = value.reshape(1)
        state[published_name(key)] = value
    # Frozen copies of CLIP, which are not wanted.
    state["clip_text_encoder.clip_model.ln_final.weight"] = torch.ones(64)
    state["masker.image_encoder.clip_visual.ln_post.weight"] = torch.ones(64)
    state["clip_text_encoder.prompt_learner.token_prefix"] = torch.ones(1)
    return state


def test_a_published_file(code_cfg, published_state, tmp_path):
    # As the published code saves it: with its config, and with numbers of NumPy.
    content = {"model": published_state, "optimizer": {"state": {}}, "scaler": {}, "step": 5}
    content |= {"config": OmegaConf.create({"seed": 1}), "metrics": {"miou": np.mean([1.0, 2.0])}}
    torch.save(content, tmp_path / "in.pth")
    config = tmp_path / "code.yaml"
    config.write_text(code_cfg.dump())
    main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--config", str(config)])
    model = build_model(code_cfg)
    Checkpointer(model).load(str(tmp_path / "out.pth"))
    for key, value in model.state_dict().items():
        if key != "clip_mark":
            theirs = published_state[published_name(key)]
            assert torch.equal(value, theirs.reshape(value.shape)), key
    # From now on it is told from a checkpoint of another CLIP.
    assert model.clip_mark.any()
    assert torch.equal(model.clip_mark, build_model(code_cfg).clip_mark)
    predictor = Predictor(tmp_path / "out.pth", vocabulary=["leaf"])
    assert predictor.class_names == ("background", "leaf")


def test_a_weight_that_is_missing(code_cfg, published_state, tmp_path):
    del published_state["masker.sim2mask.w"]
    torch.save({"model": published_state}, tmp_path / "in.pth")
    config = tmp_path / "code.yaml"
    config.write_text(code_cfg.dump())
    with refused(tmp_path / "in.pth", "region_affine.w"):
        convert_checkpoint(
            str(tmp_path / "in.pth"), tmp_path / "out.pth", str(config), convert_state
        )


def test_every_trained_weight_has_a_published_name(code_cfg, published_state):
    trained = {n for n, p in build_model(code_cfg).named_parameters() if p.requires_grad}
    assert set(convert_state(published_state)) == trained | {"clip_mark"}

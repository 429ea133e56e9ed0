# SPDX-License-Identifier: Apache-2.0
"""NACLIP against a transcription of its attention, and both systems on a small data set."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from helpers import refused, write_voc_tree
from PIL import Image

from codeseg.naclip import neighbor_bias
from dalnet.cli import main
from dalnet.config import new_config
from dalnet.engine.optimizer import build_optimizer
from dalnet.evaluation.zero_shot import ZeroShotSegmenter, parse_preset
from dalnet.evaluation.zero_shot_run import evaluate_zero_shot
from dalnet.modeling.clip.passes import image_tokens

SMALL = "short_side=40,crop=32,stride=16"


@pytest.fixture
def naclip(code_cfg):
    code_cfg.MODEL.META_ARCHITECTURE = "NACLIP"
    return build_model(code_cfg).eval()


def test_neighbors_by_distance():
    bias = neighbor_bias((2, 3), 5.0)
    assert bias.shape == (7, 7)
    assert not bias[0].any()
    assert not bias[:, 0].any()
    for i in range(6):
        for j in range(6):
            squared = (i // 3 - j // 3) ** 2 + (i % 3 - j % 3) ** 2
            assert bias[i + 1, j + 1].item() == pytest.approx(math.exp(-squared / 50))


@torch.no_grad()
def test_patches_as_transcribed(naclip):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 40)
    clip, found = naclip.clip, naclip.encode(images)["patches"]
    tokens = image_tokens(clip, images, -1)[0]
    block, width = clip.visual.transformer.resblocks[-1], tokens.shape[1]
    packed = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    keys, values = packed[:, width : 2 * width], packed[:, 2 * width :]
    # One head, neither residual connection nor MLP.
    weights = (keys @ keys.T / math.sqrt(width) + neighbor_bias((4, 5), 5.0)).softmax(dim=-1)
    rows = clip.visual.ln_post(block.attn.out_proj(weights @ values)) @ clip.visual.proj
    expected = F.normalize(rows[1:], dim=1).T.unflatten(1, (4, 5))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_scores_and_similarities(naclip):
    images = torch.randn(1, 3, 33, 47)
    texts = naclip.embed_texts(["red fish", "leaf"], ["a photo of a {}."])
    assert naclip.similarities(images, texts).shape == (1, 2, 33, 47)
    scores = naclip.maps("sem_seg", naclip.encode(images))
    assert scores.shape == (1, 4, 33, 47)
    assert (scores[:, 0] == naclip.background).all()
    assert 0 < scores.min() < scores.max() < 1


def test_a_name_has_to_fit_into_the_longest_sentence(naclip):
    naclip.set_vocabulary(["leaf", "word " * naclip.name_tokens])
    assert len(naclip.class_texts()) == 2
    with refused("vocabulary", "tokens"):
        naclip.set_vocabulary(["leaf", "word " * (naclip.name_tokens + 1)])


def test_names_of_a_data_set_that_are_too_long(naclip):
    preset = parse_preset(f"sclip:{SMALL}")
    with refused("names", "tokens"):
        ZeroShotSegmenter(naclip, preset, ["background", "word " * 80])


def test_it_has_nothing_to_train(naclip):
    with refused("MODEL.META_ARCHITECTURE", "NACLIP has nothing"):
        build_optimizer(new_config(), naclip)
    with pytest.raises(NotImplementedError):
        naclip.losses(None)


@pytest.fixture
def voc_with_background(tmp_path, monkeypatch, captioned_images):
    root = captioned_images.parent / "VOC2012"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 48, 56, 3), dtype=np.uint8)
    masks = rng.integers(0, 21, (2, 48, 56), dtype=np.uint8)
    write_voc_tree(root, images, masks, name="{}.jpg")
    return root


@pytest.mark.parametrize("system", ["CoDe", "NACLIP"])
@pytest.mark.parametrize("preset", ["tcl", "sclip"])
def test_both_systems_under_both_presets(code_cfg, voc_with_background, system, preset):
    code_cfg.MODEL.META_ARCHITECTURE = system
    model = build_model(code_cfg).eval()
    result = evaluate_zero_shot(model, "voc21", f"{preset}:{SMALL}", limit=1)
    assert result["system"] == system
    assert len(result["iou"]) == 21
    assert np.array(result["confusion"]).sum() == 48 * 56
    assert 0 <= result["miou_mmseg"] <= 100


def test_a_model_that_is_not_trained_has_to_be_asked_for(
    code_cfg, voc_with_background, tmp_path, capsys
):
    config = tmp_path / "code.yaml"
    config.write_text(code_cfg.dump())
    command = ["zero-shot", "--config", str(config), "--data", "voc21", "--limit", "1", "--output"]
    command += [str(tmp_path / "out"), "--preset", f"tcl:{SMALL}"]
    with pytest.raises(SystemExit):
        main(command)
    assert "--weights" in capsys.readouterr().err
    main([*command, "--untrained"])
    assert len(list((tmp_path / "out").glob("zero_shot_voc21_*_limit_1.json"))) == 1


def test_ground_truth_of_other_classes(code_cfg, voc_with_background):
    mask = voc_with_background / "SegmentationClass" / "0.png"
    Image.fromarray(np.full((48, 56), 33, np.uint8)).save(mask)
    model = build_model(code_cfg).eval()
    with refused(mask, "33: 2688"):
        evaluate_zero_shot(model, "voc21", f"tcl:{SMALL}")

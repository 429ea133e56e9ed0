# SPDX-License-Identifier: Apache-2.0
"""ToCo's meta-architecture: views, losses, and what learns."""

import pytest
import torch
from detectron2.modeling import build_model
from helpers import (
    DEGENERATE,
    assert_finite_in_half_precision,
    assert_parts_change_nothing,
    forward_on_fake_tensors,
    learning_passes,
    losses_of,
    make_item,
    make_model,
    raw_cams,
)

from dalnet.modeling.cam import multi_scale_cam
from dalnet_toco.class_token_contrast import class_token_contrast
from dalnet_toco.uncertain_crops import UncertainCrops


def with_source(item):
    return {**item, "local_source": item["image"]}


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("items", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_stay_finite_in_mixed_precision(tiny_cfg, items, name):
    model = make_model(tiny_cfg, "SOLVER.AMP.DTYPE", name)
    batch = [with_source(item) for item in items]
    assert_finite_in_half_precision(model, batch, getattr(torch, name))


def test_toco_contrasts_the_class_tokens_of_its_views(tiny_cfg):
    model = make_model(tiny_cfg)
    assert model.projections is None and model.text_fg is None
    items = [make_item(0), make_item(1, labels=(2,))]
    for item in items:
        item["local_source"] = 255 - item["image"]
    seen = []
    project = model.class_contrast.forward
    model.class_contrast.forward = lambda *tokens: seen.append(tokens) or project(*tokens)
    outputs = {}
    criterion = model.criterion.forward
    model.criterion.forward = lambda o, t: outputs.update(o | t) or criterion(o, t)
    losses = losses_of(model, items)
    assert set(losses) == {f"loss_{n}" for n in ("cls", "inter", "ptc", "seg", "reg", "ctc")}
    positive = outputs["positive_views"]
    expected = class_token_contrast(
        outputs["teacher_views"], outputs["student_views"], positive, temperature=0.5
    )
    torch.testing.assert_close(losses["loss_ctc"], 0.5 * expected)

    (global_tokens, local_tokens) = seen[0]
    assert local_tokens.shape == (2, 2, 24) and positive.shape == (2, 4)
    assert positive[:, :2].all()
    mean = torch.tensor(tiny_cfg.MODEL.PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(tiny_cfg.MODEL.PIXEL_STD).view(3, 1, 1)
    for n, item in enumerate(items):
        views = torch.cat([item["image"][None], item["global_views"]]).float()
        expected = model.backbone((views - mean) / std)["cls_token"]
        torch.testing.assert_close(global_tokens[n], expected, rtol=1e-4, atol=1e-5)
        # Every local token belongs to some crop of the local source.
        places = item["local_source"].float().unfold(1, 16, 1).unfold(2, 16, 1)
        places = places.permute(1, 2, 0, 3, 4).flatten(0, 1)
        tokens = model.backbone((places - mean) / std)["cls_token"]
        distances = (local_tokens[n][:, None] - tokens).norm(dim=2).amin(dim=1)
        assert distances.max() < 1e-4
    assert model.crops.number == 2 and model.crops.size == 16


def test_every_parameter_of_toco_learns_but_the_teacher(tiny_cfg):
    model = make_model(tiny_cfg)
    items = [with_source(make_item(seed)) for seed in (0, 1)]
    sum(losses_of(model, items).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {
        name for name, _ in model.named_parameters() if name.startswith("class_contrast.teacher.")
    }


def test_toco_cuts_where_the_intermediate_cam_is_unsure(tiny_cfg):
    model = make_model(tiny_cfg)
    item = with_source(make_item(0))
    seen = []
    crops = model.crops
    model.crops = lambda source, cams, valid: (
        seen.append((cams, valid)) or crops(source, cams, valid)
    )
    losses_of(model, [item])
    (cams, valid), labels = seen[0], item["image_labels"][None]
    mean = torch.tensor(tiny_cfg.MODEL.PIXEL_MEAN).view(3, 1, 1)
    std = torch.tensor(tiny_cfg.MODEL.PIXEL_STD).view(3, 1, 1)
    images = ((item["image"] - mean) / std)[None]
    expected = multi_scale_cam(lambda x: raw_cams(model, x), images, (1.0, 0.5))[1]
    assert valid.all()
    torch.testing.assert_close(cams, expected[labels > 0][None], rtol=1e-4, atol=1e-5)


def test_passes_for_cams_keep_no_graph(tiny_cfg):
    """The CAMs end in thresholds, so a graph of their passes would be kept for nothing."""
    model = make_model(tiny_cfg)
    modes = learning_passes(model)
    losses_of(model, [with_source(make_item(0))])
    # As for DALNet, whose views have these sizes.
    assert {size: sorted(learns) for size, learns in modes.items()} == {
        (32, 32): [False, True, True],
        (16, 16): [False, True],
    }


def test_the_forward_pass_reads_nothing_back(tiny_cfg, monkeypatch):
    tiny_cfg.merge_from_list(["MODEL.DALNET.REG.METHOD", "exact"])
    items = [with_source(make_item(seed)) for seed in (0, 1)]
    losses, _ = forward_on_fake_tensors(tiny_cfg, items, "cuda", torch.float32, monkeypatch)
    assert losses["loss_ctc"].is_cuda


def test_every_key_reaches_its_part(tiny_cfg):
    tiny_cfg.merge_from_list(
        [
            *("MODEL.TOCO.MOMENTUM", 0.8, "MODEL.TOCO.TEMPERATURE", 0.6),
            *("MODEL.TOCO.MAX_BACKGROUND", 0.3, "MODEL.CAM.LOW_THRESHOLD", 0.21),
            *("MODEL.CAM.HIGH_THRESHOLD", 0.81, "INPUT.MULTI_CROP.LOCAL_VIEWS", 3),
            *("MODEL.TOCO.CTC_WEIGHT", 0.7),
        ]
    )
    model = build_model(tiny_cfg)
    assert model.class_contrast.momentum == 0.8
    assert model.criterion.options["ctc"] == {"temperature": 0.6}
    assert model.criterion.weights["ctc"] == 0.7
    assert model.crops == UncertainCrops(number=3, size=16, low=0.21, high=0.81, max_background=0.3)
    shapes = [tuple(p.shape) for p in model.class_contrast.student.parameters() if p.dim() > 1]
    assert shapes == [(12, 8), (16, 24), (16, 16), (8, 16)]


def test_parts_train_as_the_whole_batch(tiny_cfg, tmp_path):
    records = [with_source(make_item(seed, labels=(seed, seed + 5))) for seed in range(4)]
    assert_parts_change_nothing(tiny_cfg, records, tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""The meta-architecture: Eq. 7 and 8 put together, views, degenerate batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from helpers import (
    DEGENERATE,
    assert_finite_in_half_precision,
    learning_passes,
    losses_of,
    make_item,
    make_model,
    raw_cams,
    refused,
)

from dalnet.modeling.cam import cam_to_label, multi_scale_cam, object_mask
from dalnet.modeling.losses import (
    balanced_cross_entropy,
    dense_energy,
    global_implicit_alignment,
    local_explicit_alignment,
    patch_token_contrast,
)
from dalnet.modeling.multi_scale import CAMSettings
from dalnet.modeling.pseudo_labels import local_view_labels, refine

ALL_LOSSES = {f"loss_{n}" for n in ("cls", "inter", "gia", "lea", "ptc", "seg", "reg")}


def test_a_backbone_without_tokens_is_refused(tiny_cfg):
    cnn = ("MODEL.CNN.NAME", "test_resnet", "MODEL.CNN.WEIGHTS", "")
    tiny_cfg.merge_from_list(["MODEL.BACKBONE.NAME", "TimmCNN", *cnn])
    with refused("MODEL.BACKBONE.NAME", "TimmCNN gives no cls_token"):
        make_model(tiny_cfg)


def view_tokens(model, items, cls_tokens, label_map, normalize):
    """Class tokens and labels of all views, one view at a time."""
    labels = torch.stack([item["image_labels"] for item in items])
    views, view_labels = [cls_tokens], [labels]
    for index, item in enumerate(items):
        views.append(model.backbone(normalize(item["global_views"]))["cls_token"])
        view_labels.append(labels[index : index + 1])
        local = local_view_labels(label_map[[index]], item["local_boxes"][None], 10, 0.1)[0]
        for view, shown in zip(item["local_views"], local, strict=True):
            if shown.any():
                views.append(model.backbone(normalize(view)[None])["cls_token"])
                view_labels.append(shown[None])
    return torch.cat(views), torch.cat(view_labels)


def test_losses_are_equations_7_and_8(tiny_cfg):
    """The forward pass equals its parts, called one by one in the paper's order."""
    model = make_model(tiny_cfg, "MODEL.DALNET.LOCAL_MIN_COVERAGE", 0.1)
    items = [make_item(0), make_item(1, labels=(2,), box=(0, 28, 0, 32))]
    losses = losses_of(model, items)

    pixels = torch.stack([item["image"] for item in items]).float()
    labels = torch.stack([item["image_labels"] for item in items])
    boxes = torch.stack([item["image_box"] for item in items])

    def normalize(values):
        return (values.float() - model.pixel_mean) / model.pixel_std

    images = normalize(pixels)
    tokens = model.backbone(images)
    patches, inter = tokens["patch_tokens"], tokens["inter_tokens"]
    text_fg = model.projections.text(model.text_fg)
    text_bg = model.projections.text(model.text_bg)

    cams, inter_cams = multi_scale_cam(lambda x: raw_cams(model, x), images, (1.0, 0.5))
    mask = object_mask(raw_cams(model, images)[1], labels, 0.5).flatten(1)
    assert 0 < mask.mean() < 1

    label_map = cam_to_label(cams, labels, boxes, 0.25, 0.7)
    views, view_labels = view_tokens(model, items, tokens["cls_token"], label_map, normalize)
    # Local views of two classes, one and none.
    assert view_labels.sum(dim=1).tolist() == [2, 1, 2, 2, 1, 1, 1]
    token_cams = F.interpolate(inter_cams, size=(4, 4), mode="bilinear", align_corners=False)
    # 8 pixels a token: a box edge at 4 pixels rounds down to token 0.
    token_boxes = torch.tensor([[0, 4, 0, 4], [0, 3, 0, 4]])
    token_labels = cam_to_label(token_cams, labels, token_boxes, 0.25, 0.7)
    pseudo = refine(model.par, pixels / 255, cams, labels, boxes, 0.25, 0.7)
    assert {0, 255} < set(pseudo.unique().tolist())
    logits = F.interpolate(model.sem_seg_head(tokens), size=(32, 32), mode="bilinear")
    projected = model.projections.visual(patches.flatten(2).mT)
    expected = {
        "loss_cls": F.multilabel_soft_margin_loss(model.classifier.logits(patches), labels),
        "loss_inter": F.multilabel_soft_margin_loss(model.inter_classifier.logits(inter), labels),
        "loss_gia": global_implicit_alignment(
            model.projections.visual(views), text_fg, text_bg, view_labels
        ),
        "loss_lea": local_explicit_alignment(projected, mask, text_fg, text_bg, labels),
        "loss_ptc": 0.2 * patch_token_contrast(patches, token_labels),
        "loss_seg": balanced_cross_entropy(logits, pseudo),
        "loss_reg": dense_energy(pixels, logits.softmax(1), boxes, pseudo),
    }
    assert set(losses) == set(expected)
    # Weights that every loss reaches, and those of the CAMs, which only their own loss does.
    probes = [model.backbone.vit.patch_embed.proj.weight, model.backbone.vit.cls_token]
    probes += [*model.classifier.parameters(), *model.inter_classifier.parameters()]
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)
        gradients = [
            torch.autograd.grad(loss, probes, retain_graph=True, allow_unused=True)
            for loss in (losses[name], value)
        ]
        assert gradients[1][0].abs().sum() > 0
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("projection", ["orthogonal", "linear"])
def test_every_parameter_learns(tiny_cfg, projection):
    """All parameters are reached once all losses act, none is left out before."""
    for iteration, start in ((0, 0), (4, 5)):
        options = ("MODEL.DALNET.TEXT_PROJECTION", projection)
        options += ("MODEL.DALNET.ALIGN_START_ITER", start)
        model = make_model(tiny_cfg, "MODEL.DALNET.SEG_START_ITER", start, *options)
        losses = losses_of(model, [make_item(0), make_item(1)], iteration)
        sum(losses.values()).backward()
        missing = {n for n, p in model.named_parameters() if p.grad is None}
        assert missing == ({"projections.text.weight"} if projection == "orthogonal" else set())
    assert losses["loss_seg"] == 0
    assert "loss_reg" not in losses


@pytest.mark.parametrize("projection", ["orthogonal", "linear"])
def test_the_alignment_may_begin_later(tiny_cfg, projection):
    options = ("MODEL.DALNET.TEXT_PROJECTION", projection)
    items = [make_item(0), make_item(1)]
    at_once = losses_of(make_model(tiny_cfg, *options), items, 5)
    model = make_model(tiny_cfg, "MODEL.DALNET.ALIGN_START_ITER", 5, *options)
    before, after = losses_of(model, items, 4), losses_of(model, items, 5)
    assert before.keys() == after.keys() == at_once.keys()
    assert before["loss_gia"] == before["loss_lea"] == 0 < after["loss_lea"]
    for name in at_once:
        torch.testing.assert_close(after[name], at_once[name])
    sum(before.values()).backward()
    assert not any(p.grad.any() for p in model.projections.parameters() if p.requires_grad)


@pytest.mark.parametrize("gia", [True, False])
@pytest.mark.parametrize("lea", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_table_4_cells_are_configs(tiny_cfg, gia, lea, cross):
    options = ("MODEL.DALNET.GIA", gia, "MODEL.DALNET.LEA", lea)
    model = make_model(tiny_cfg, *options, "MODEL.DALNET.CROSS_CONTRASTIVE", cross)
    losses = losses_of(model, [make_item(0)])
    dropped = {name for name, on in (("loss_gia", gia), ("loss_lea", lea)) if not on}
    assert set(losses) == ALL_LOSSES - dropped
    if cross:
        plain = make_model(tiny_cfg, "MODEL.DALNET.CROSS_CONTRASTIVE", False)
        without = losses_of(plain, [make_item(0)])
        for name in {"loss_gia", "loss_lea"} - dropped:
            assert losses[name] != without[name]


@pytest.mark.parametrize("name", ["cls", "inter", "gia", "lea", "ptc", "seg", "reg"])
def test_weights_scale_their_own_loss(tiny_cfg, name):
    items = [make_item(0)]
    before = losses_of(make_model(tiny_cfg), items)
    key = f"MODEL.DALNET.{name.upper()}_WEIGHT"
    weight = tiny_cfg.MODEL.DALNET[f"{name.upper()}_WEIGHT"]
    after = losses_of(make_model(tiny_cfg, key, 3 * weight), items)
    for other in ALL_LOSSES:
        factor = 3 if other == f"loss_{name}" else 1
        torch.testing.assert_close(after[other], factor * before[other])


@pytest.mark.parametrize("items", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("similarity", ["affine", "clamp"])
def test_degenerate_batches_stay_finite(tiny_cfg, items, similarity):
    model = make_model(tiny_cfg, "MODEL.DALNET.GIA_SIMILARITY", similarity)
    losses = losses_of(model, items)
    assert all(loss.isfinite() for loss in losses.values()), losses
    sum(losses.values()).backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in learning)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("items", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_stay_finite_in_mixed_precision(tiny_cfg, items, name):
    model = make_model(tiny_cfg, "SOLVER.AMP.DTYPE", name)
    assert_finite_in_half_precision(model, items, getattr(torch, name))


def test_autocast_keeps_losses_close(tiny_cfg):
    model = make_model(tiny_cfg)
    full = losses_of(model, [make_item(0)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = losses_of(model, [make_item(0)])
    for name in ("loss_cls", "loss_inter", "loss_gia", "loss_lea", "loss_seg"):
        assert half[name].isfinite()
        torch.testing.assert_close(half[name], full[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("key", ["LEA_TEMPERATURE", "LEA_BACKGROUND_WEIGHT", "REG.SIGMA_XY"])
def test_loss_settings_change_their_own_loss_alone(tiny_cfg, key):
    before = losses_of(make_model(tiny_cfg), [make_item(0)])
    after = losses_of(make_model(tiny_cfg, f"MODEL.DALNET.{key}", 0.5), [make_item(0)])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"loss_reg" if key.startswith("REG") else "loss_lea"}


@pytest.mark.parametrize("key, value", [("LEA_NORMALIZE", "region"), ("GIA_SIMILARITY", "clamp")])
def test_forms_of_the_alignment_change_it_alone(tiny_cfg, key, value):
    before = losses_of(make_model(tiny_cfg), [make_item(0)])
    after = losses_of(make_model(tiny_cfg, f"MODEL.DALNET.{key}", value), [make_item(0)])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"loss_lea" if key == "LEA_NORMALIZE" else "loss_gia"}


def test_passes_for_cams_keep_no_graph(tiny_cfg):
    """The CAMs end in thresholds, so a graph of their passes would be kept for nothing."""
    model = make_model(tiny_cfg)
    modes = learning_passes(model)
    losses_of(model, [make_item(0)])
    # Main, global and local views learn. The CAMs see the mirror image, and both at half size,
    # which is that of a local view too.
    assert {size: sorted(learns) for size, learns in modes.items()} == {
        (32, 32): [False, True, True],
        (16, 16): [False, True],
    }


def test_every_key_of_the_method_reaches_its_part(tiny_cfg):
    """Values unlike each other and unlike the defaults, so that no two can be mixed up."""
    model = make_model(
        tiny_cfg,
        *("MODEL.DALNET.OBJECT_MASK_THRESHOLD", 0.41, "MODEL.DALNET.LOCAL_MIN_COVERAGE", 0.31),
        *("MODEL.CAM.LOW_THRESHOLD", 0.21, "MODEL.CAM.HIGH_THRESHOLD", 0.81),
        *("MODEL.CAM.SCALES", (1.0, 0.75), "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 99),
        *("MODEL.DALNET.LEA_TEMPERATURE", 0.7, "MODEL.DALNET.LEA_BACKGROUND_WEIGHT", 0.03),
        *("MODEL.DALNET.LEA_NORMALIZE", "region", "MODEL.DALNET.GIA_SIMILARITY", "clamp"),
        *("MODEL.DALNET.CROSS_CONTRASTIVE", False),
        *("MODEL.DALNET.REG.SIGMA_RGB", 14.0, "MODEL.DALNET.REG.SIGMA_XY", 90.0),
        *("MODEL.DALNET.REG.SCALE", 0.6, "MODEL.DALNET.REG.METHOD", "exact"),
        *("MODEL.PAR.NUM_ITERS", 3, "MODEL.PAR.DILATIONS", (1, 3)),
        *("MODEL.DALNET.SEG_START_ITER", 7, "MODEL.DALNET.ALIGN_START_ITER", 3),
        *("MODEL.CAM.BACKGROUND_THRESHOLD", 0.3),
        *("MODEL.CAM.FLIP", "sum", "MODEL.CAM.NORMALIZE", "max"),
    )
    assert (model.object_mask_threshold, model.local_min_coverage) == (0.41, 0.31)
    assert model.cam_settings == CAMSettings(
        scales=(1.0, 0.75),
        flip="sum",
        normalize="max",
        low=0.21,
        high=0.81,
        background=0.3,
        ignore_value=99,
    )
    criterion = model.criterion
    assert criterion.options == {
        "gia": {"cross": False, "similarity": "clamp"},
        "lea": {
            "cross": False,
            "similarity": "clamp",
            "temperature": 0.7,
            "bg_weight": 0.03,
            "normalize": "region",
        },
        "reg": {"sigma_rgb": 14, "sigma_xy": 90, "scale": 0.6, "method": "exact"},
    }
    assert criterion.ignore_value == 99
    assert (model.par.num_iters, model.par.dilations) == (3, (1, 3))
    assert (model.seg_start_iter, model.align_start_iter) == (7, 3)


def test_labels_that_are_all_known_change_nothing(tiny_cfg):
    items = [make_item(0), make_item(1, labels=(2,))]
    plain = losses_of(make_model(tiny_cfg), items)
    known = [{**item, "known_labels": torch.ones(10, dtype=torch.bool)} for item in items]
    for name, loss in losses_of(make_model(tiny_cfg), known).items():
        assert torch.equal(loss, plain[name]), name


def with_unknown(item, classes):
    known = torch.ones(10, dtype=torch.bool)
    known[list(classes)] = False
    return {**item, "known_labels": known}


def test_an_image_without_class_is_a_negative_and_background(tiny_cfg):
    shown, negative = make_item(0), make_item(1, labels=(), box=(0, 32, 4, 32))
    model = make_model(tiny_cfg)
    alone, both = losses_of(model, [shown]), losses_of(model, [shown, negative])
    for name in ("loss_gia", "loss_lea"):
        torch.testing.assert_close(both[name], alone[name])
    logits = torch.cat([class_logits(model, item) for item in (shown, negative)])
    labels = torch.stack([shown["image_labels"], torch.zeros(10)])
    expected = F.multilabel_soft_margin_loss(logits, labels)
    torch.testing.assert_close(both["loss_cls"], expected)
    label_map = pseudo_label(model, negative)  # its box begins at column 4
    assert (label_map[..., :4] == 255).all() and (label_map[..., 4:] == 0).all()


def test_unknown_classes_count_in_no_loss_and_are_not_shown(tiny_cfg):
    model = make_model(tiny_cfg)
    item = make_item(0)
    partly = with_unknown(item, (2, 7))
    losses, plain = losses_of(model, [partly]), losses_of(model, [item])
    logits, labels = class_logits(model, item), item["image_labels"][None]
    kept = [0, 1, 3, 4, 5, 6, 8, 9]
    expected = F.multilabel_soft_margin_loss(logits[:, kept], labels[:, kept])
    torch.testing.assert_close(losses["loss_cls"], expected)
    for name in ALL_LOSSES - {"loss_cls", "loss_inter"}:
        assert torch.equal(losses[name], plain[name]), name
    assert torch.equal(pseudo_label(model, partly), pseudo_label(model, item))


def test_an_image_that_may_show_anything_supervises_no_pixel(tiny_cfg):
    model = make_model(tiny_cfg)
    unclear = with_unknown(make_item(1, labels=()), (3,))
    assert (pseudo_label(model, unclear) == 255).all()
    batch = model.batch_type.collate([unclear, with_unknown(make_item(0), ())], model.device)
    with torch.no_grad():
        cams = model.multi_scale_cams(batch, model.encode(model.normalize(batch.images)))
    token_labels = model.token_labels(batch, cams.intermediate, (4, 4))
    assert (token_labels[0] == 255).all() and (token_labels[1] != 255).any()


def class_logits(model, item):
    images = (item["image"][None].float() - model.pixel_mean) / model.pixel_std
    return model.classifier.logits(model.backbone(images)["patch_tokens"])


def pseudo_label(model, item):
    batch = model.batch_type.collate([item], model.device)
    with torch.no_grad():
        cams = model.multi_scale_cams(batch, model.encode(model.normalize(batch.images)))
    return model.segmentation_targets(batch, cams.final)


def test_a_mapper_that_gives_too_little_is_named(tiny_cfg):
    item = make_item(0)
    del item["local_boxes"]
    with refused("INPUT.DATASET_MAPPER_NAME", "'local_boxes'"):
        losses_of(make_model(tiny_cfg), [item])


def test_corrected_masks_take_the_place_of_pseudo_labels(tiny_cfg):
    corrected = torch.full((32, 32), 255, dtype=torch.uint8)
    corrected[:16] = 3
    items = [make_item(0), {**make_item(1), "label_map": corrected}]
    model = make_model(tiny_cfg)
    targets = {}
    for name, batch in (("with", items), ("without", [items[0], make_item(1)])):
        batch = model.batch_type.collate(batch, torch.device("cpu"))
        with EventStorage(0):
            cams = model.multi_scale_cams(batch, model.encode(model.normalize(batch.images)))
            targets[name] = model.segmentation_targets(batch, cams.final)
    assert torch.equal(targets["with"][0], targets["without"][0])
    assert torch.equal(targets["with"][1], corrected.long())
    assert not torch.equal(targets["without"][1], corrected.long())
    assert model.batch_type.collate([make_item(0)], torch.device("cpu")).corrected is None


def test_classifiers_may_start_from_zeros(tiny_cfg):
    drawn = make_model(tiny_cfg)
    zero = make_model(tiny_cfg, "MODEL.DALNET.CLASSIFIER_INIT", "zeros")
    for name, value in zero.named_parameters():
        if "classifier" in name:
            assert not value.any() and drawn.get_parameter(name).any()
    losses = losses_of(zero, [make_item(0), make_item(1)])
    assert losses["loss_cls"].item() == pytest.approx(math.log(2))
    sum(losses.values()).backward()
    assert zero.classifier.linear.weight.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in zero.parameters())

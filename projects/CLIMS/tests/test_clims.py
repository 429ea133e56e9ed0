# SPDX-License-Identifier: Apache-2.0
"""CLIMS's meta-architecture: a step by hand, what learns, and what stays out of a checkpoint."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from helpers import refused

from clims import losses
from clims.masking import masked_images

SENTENCE = "a photo of {}."


def make_record(seed, labels=(1, 4)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 8, 8, generator=generator)
    image = (255 * F.interpolate(image, (64, 64), mode="bilinear")).byte()[0]
    multi_hot = torch.zeros(10)
    multi_hot[list(labels)] = 1
    return {"image": image, "image_labels": multi_hot, "image_box": torch.tensor([0, 64, 0, 64])}


RECORDS = [make_record(0), make_record(1, (2,)), make_record(2, (0, 5, 9))]


def make(cfg, *options):
    cfg = cfg.clone()
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    return build_model(cfg)


def embed(clip, sentences):
    tokens = open_clip.SimpleTokenizer(context_length=16)(sentences)
    return F.normalize(clip.encode_text(tokens).detach(), dim=1)


STATISTICS = ([127.0, 120.0, 110.0], [64.0, 65.0, 66.0])


def by_loops(objects, rest, texts, phrases, threshold):
    """Return L_OTM, L_BTM and L_CBS, computed pair by pair."""
    matching = background = suppression = 0.0
    for seen, left, text in zip(objects, rest, texts, strict=True):
        matching -= (seen @ text).clamp(1e-4, 0.9999).log()
        background -= (1 - (left @ text).clamp(1e-4, 0.9999)).log()
        for phrase in phrases:
            if seen @ phrase > threshold:
                suppression -= (1 - seen @ phrase).log()
    assert suppression > 0
    return matching / len(objects), background / len(objects), suppression


VOC, COCO = (10, 24, 1, 0.2), (2, 14, 1.25, 0.2)  # weights of L_OTM, L_BTM, L_CBS, L_REG


@pytest.mark.parametrize(
    ("own_statistics", "weights", "threshold"),
    [(False, VOC, 0.05), (True, VOC, 0.26), (False, COCO, 0.285)],
)
def test_a_training_step_by_hand(clims_cfg, random_clip, own_statistics, weights, threshold):
    """Cases 6 and 7 of the published figures, on a network and a CLIP made for the purpose."""
    names = [f"MODEL.CLIMS.{name}_WEIGHT" for name in ("OTM", "BTM", "CBS", "REG")]
    options = [x for pair in zip(names, map(float, weights), strict=True) for x in pair]
    options += ["MODEL.CLIMS.CBS_THRESHOLD", threshold]
    mean, std = clims_cfg.MODEL.PIXEL_MEAN, clims_cfg.MODEL.PIXEL_STD
    if own_statistics:
        mean, std = STATISTICS
        options += ["MODEL.CLIMS.CLIP_PIXEL_MEAN", mean, "MODEL.CLIMS.CLIP_PIXEL_STD", std]
    model = make(clims_cfg, *options).train()
    found = model(RECORDS)

    images = torch.stack([record["image"] for record in RECORDS]).float()
    labels = torch.stack([record["image_labels"] for record in RECORDS])
    features = model.backbone(model.normalize(images))["map"]
    weight = model.classifier.linear.weight
    maps = torch.einsum("cd,ndhw->nchw", weight, features).sigmoid()
    seen = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    objects, rest, (_, classes) = masked_images(seen, maps, labels, 32)
    objects, rest = (F.normalize(random_clip.encode_image(x), dim=1) for x in (objects, rest))
    texts = embed(random_clip, [SENTENCE.format(name) for name in model.class_names[1:]])[classes]
    grounds = ("pond", "meadow", "beach", "street", "night sky")
    phrases = embed(random_clip, [SENTENCE.format(ground) for ground in grounds])
    values = by_loops(objects, rest, texts, phrases, threshold)
    expected = {
        f"loss_{name}": weight * value
        for name, weight, value in zip(
            ("otm", "btm", "cbs", "reg"), weights, (*values, maps.mean()), strict=True
        )
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_everything_learns_but_the_stem_and_clip_keeps_no_gradient(clims_cfg):
    model = make(clims_cfg, "MODEL.CLIMS.CBS_THRESHOLD", 0.0).train()
    sum(model(RECORDS).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    stem = ("backbone.cnn.conv1.", "backbone.cnn.bn1.")
    assert without == {name for name, _ in model.named_parameters() if name.startswith(stem)}
    assert all(p.grad is None for p in model.matching.parameters())
    assert not any(p.requires_grad for p in model.matching.parameters())


@pytest.mark.parametrize("loss", ["otm", "btm", "cbs"])
def test_what_clip_says_reaches_the_maps_of_present_classes(clims_cfg, loss):
    model = make(clims_cfg, "MODEL.CLIMS.CBS_THRESHOLD", 0.0).train()
    maps = torch.full((3, 10, 8, 8), 0.5, requires_grad=True)
    batch = model.batch_type.collate(RECORDS, model.device)
    outputs, classes = model.embed_masked(batch, maps)
    found = model.criterion(outputs, model.make_targets(classes))[f"loss_{loss}"]
    (gradient,) = torch.autograd.grad(found, maps)
    assert torch.equal(gradient.flatten(2).any(dim=2), batch.image_labels.bool())


def test_clip_is_no_part_of_the_model(clims_cfg):
    model = make(clims_cfg).train()
    assert not any("clip" in name or "text" in name for name in model.state_dict())
    assert sorted(name for name, _ in model.named_children()) == (
        ["backbone", "classifier", "criterion", "par"]
    )
    assert not any(module.training for module in model.matching.clip.model.modules())


def test_clip_is_loaded_for_training_alone(clims_cfg, monkeypatch):
    from clims import clims as module

    calls = []
    real = module.build_matching
    monkeypatch.setattr(module, "build_matching", lambda cfg: calls.append(1) or real(cfg))
    model = make(clims_cfg, "MODEL.CLIP.SOURCE", "checkpoint")
    model.eval()([{**RECORDS[0], "height": 64, "width": 64}])
    assert not calls
    model.train()(RECORDS)  # a training that goes on
    model(RECORDS)
    assert calls == [1]


def test_weights_of_zero_leave_losses_out(clims_cfg):
    zeros = [f"MODEL.CLIMS.{name}_WEIGHT" for name in ("BTM", "CBS", "REG")]
    model = make(clims_cfg, *(x for key in zeros for x in (key, 0.0))).train()
    seen = []
    embed_images = model.matching.embed
    model.matching.embed = lambda images: seen.append(len(images)) or embed_images(images)
    assert set(model(RECORDS)) == {"loss_otm"}
    assert seen == [6], "the backgrounds are not looked at"


def test_chunks_change_nothing(clims_cfg):
    gradients = []
    for chunk in (0, 1, 4):
        model = make(clims_cfg, "MODEL.CLIMS.CLIP_CHUNK", chunk).train()
        losses_found = model(RECORDS)
        sum(losses_found.values()).backward()
        gradients.append([losses_found["loss_otm"].detach(), model.classifier.linear.weight.grad])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("reg", [0.2, 0.0])
@pytest.mark.parametrize("count", [0, 1])
def test_batches_with_fewer_than_two_positives(clims_cfg, caplog, count, reg):
    model = make(clims_cfg, "MODEL.CLIMS.REG_WEIGHT", reg).train()
    records = [make_record(0, (3,) if count else ()), make_record(1, ())]
    found = model(records)
    assert all(loss.isfinite() for loss in found.values())
    if not count:
        assert found["loss_otm"] == found["loss_btm"] == found["loss_cbs"] == 0
        assert "no image that shows a class" in caplog.text
    sum(found.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_suppression_does_not_depend_on_the_batch_where_asked(clims_cfg):
    def found(records, reference):
        options = ("MODEL.CLIMS.CBS_THRESHOLD", 0.0, "MODEL.CLIMS.CBS_REFERENCE_BATCH", reference)
        # Fixed statistics, so that an image's map is the same in any batch.
        model = make(clims_cfg, "MODEL.CNN.NORM", "FixedBN", *options).train()
        return model(records)["loss_cbs"].item()

    one, two = found(RECORDS, 0), found(RECORDS + RECORDS, 0)
    assert one > 0 and two == pytest.approx(2 * one, rel=1e-4)
    for records in (RECORDS, RECORDS + RECORDS):
        assert found(records, 16) == pytest.approx(16 / 3 * one, rel=1e-4)


def test_the_camera_ready_losses(clims_cfg, random_clip, tmp_path):
    names = make(clims_cfg).class_names[1:]
    words = "".join(f"  {name}: {name}\n" for name in names)
    path = tmp_path / "texts.yaml"
    related = f"related:\n  {names[1]}: [pond, lawn]\n  {names[5]}: [lawn]\n"
    path.write_text(f"words:\n{words}{related}weights:\n  {names[2]}: 3\n")
    variant = ("MODEL.CLIMS.VARIANT", "camera_ready")
    model = make(clims_cfg, "MODEL.CLIMS.TEXTS", str(path), *variant).train()
    assert model.matching.phrase_texts.shape == (3, 24)
    batch = model.batch_type.collate(RECORDS, model.device)
    outputs, classes = model.embed_masked(batch, torch.full((3, 10, 8, 8), 0.5))
    targets = model.make_targets(classes)
    assert classes.tolist() == [1, 4, 2, 0, 5, 9]
    assert targets["pair_weights"].tolist() == [1, 1, 3, 1, 1, 1]
    assert targets["related"].tolist() == [[c == 1, c == 1, c == 5] for c in classes.tolist()]
    found = model.criterion(outputs, targets)
    lawn = embed(random_clip, ["a photo of pond.", "a photo of lawn."])
    first, fifth = outputs["objects"][0] @ lawn.T, outputs["objects"][4] @ lawn[1]
    expected = -(1 - first).log().mean() - (1 - fifth).log()
    torch.testing.assert_close(found["loss_cbs"], expected, rtol=1e-4, atol=1e-5)
    similarity = (outputs["objects"] * targets["texts"]).sum(1)
    expected = losses.object_matching(similarity, targets["pair_weights"], clamp=False)
    torch.testing.assert_close(found["loss_otm"], 10 * expected)
    with refused("MODEL.CLIMS.TEXTS", "related"):
        make(clims_cfg, *variant)


def test_a_clip_without_image_tower_is_refused(clims_cfg, random_clip, tmp_path):
    state = {k: v for k, v in random_clip.state_dict().items() if not k.startswith("visual.")}
    torch.save(state, tmp_path / "text_only.pt")
    with refused("MODEL.CLIP.WEIGHTS", "text tower alone"):
        make(clims_cfg, "MODEL.CLIP.WEIGHTS", str(tmp_path / "text_only.pt"))


def test_clip_is_moved_to_the_device_of_the_model_once(clims_cfg, monkeypatch):
    model = make(clims_cfg).to("meta")  # in place of a GPU
    matching = model.matching
    assert all(parameter.is_meta for parameter in matching.parameters())
    monkeypatch.setattr(matching, "to", lambda *_: pytest.fail("it is there already"))
    assert model.matching is matching

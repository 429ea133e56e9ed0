# SPDX-License-Identifier: Apache-2.0
"""M_obj and cosines against plain loops over pixels and patches, and measured on a split."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from helpers import refused
from torch import nn

from dalnet.checkpoint import load_model
from dalnet.data import build_test_loader
from dalnet.data.image_io import read_mask
from dalnet.evaluation import alignment
from dalnet.evaluation.alignment import (
    RESULT_FILE,
    AlignmentQuality,
    evaluate_alignment,
    format_quality,
    pair_order,
    patch_fractions,
    similarity_maps,
)
from dalnet.modeling.cam import object_mask

PATCH, GRID, CLASSES = 4, (3, 5), 4


def random_image(seed):
    """A truth with ignored pixels, a mask, and cosines with two of three classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 3, 255], (6, 10))
    truth = torch.from_numpy(blocks.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8))
    mask = torch.from_numpy(rng.integers(0, 2, GRID).astype(np.float32))
    cosines = {label: torch.from_numpy(rng.uniform(-1, 1, GRID)) for label in (1, 3, 0)}
    return truth, mask, cosines


def literal_fraction(truth, row, column, wanted):
    hits = 0
    for y in range(PATCH):
        for x in range(PATCH):
            hits += int(truth[row * PATCH + y, column * PATCH + x]) in wanted
    return hits / PATCH**2


def literal_quality(images):
    """Every mean as a sum over patches and its weight."""
    sums = {}

    def add(name, value, weight):
        total, weights = sums.get(name, (0, 0))
        sums[name] = total + value * weight, weights + weight

    for truth, mask, cosines in images:
        ours, others = {1: [], 3: []}, {1: [], 3: []}
        for i, row, column in ((i, i // GRID[1], i % GRID[1]) for i in range(GRID[0] * GRID[1])):
            ground = literal_fraction(truth, row, column, {0})
            objects = literal_fraction(truth, row, column, {1, 2, 3})
            masked = float(mask.flatten()[i])
            for name, value, weight in (
                ("object_fraction", 1, objects),
                ("object_fraction", 0, ground),
                ("mask_precision", 1, masked * objects),
                ("mask_precision", 0, masked * ground),
                ("mask_recall", masked, objects),
            ):
                add(name, value, weight)
            add("background_text_on_object", float(cosines[0][row, column]), objects)
            add("background_text_on_ground", float(cosines[0][row, column]), ground)
            for label, other in ((1, {2, 3}), (3, {1, 2})):
                value = float(cosines[label][row, column])
                own, rest = (literal_fraction(truth, row, column, w) for w in ({label}, other))
                add("class_text_on_object", value, own)
                add("class_text_on_others", value, rest)
                add("class_text_on_ground", value, ground)
                ours[label] += [value] * (own >= 0.5)
                others[label] += [value] * (rest + ground > 0.5)
        for label in (1, 3):
            pairs = [a > b for a in ours[label] for b in others[label]]
            if pairs:
                add("class_text_order", sum(pairs) / len(pairs), 1)
    return {name: total / weight for name, (total, weight) in sums.items()}


def test_means_are_those_of_plain_loops():
    images = [random_image(seed) for seed in range(4)]
    quality = AlignmentQuality(CLASSES)
    for image in images:
        quality.update(*image)
    assert quality.num_images == 4
    result = quality.compute()
    expected = literal_quality(images)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-6), name


def test_patch_of_a_grid_that_does_not_divide_the_image():
    truth = torch.tensor([[0, 1, 1], [0, 1, 1], [2, 2, 255]])
    fractions = patch_fractions(truth, 3, (2, 2))
    # Two by two pixels each: those in the middle belong to both neighbors.
    assert fractions[:, 0, 0].tolist() == [0.5, 0.5, 0]
    assert fractions[:, 1, 1].tolist() == [0, 0.5, 0.25]


def test_order_of_pairs():
    values = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    positive = torch.tensor([[True, True], [False, False]])
    assert pair_order(values, positive, ~positive) == (1 + 1 + 0.5 + 0) / 4
    assert pair_order(values, positive, torch.zeros_like(positive)) is None


def test_what_was_not_counted_has_no_value_and_no_line():
    quality = AlignmentQuality(CLASSES)
    truth = torch.zeros(12, 20, dtype=torch.uint8)
    quality.update(truth, torch.zeros(GRID))
    result = quality.compute()
    assert result["object_fraction"] == 0
    assert {name for name, value in result.items() if value is not None} == {"object_fraction"}
    lines = format_quality(result).splitlines()
    assert len(lines) == 3 and "pixels on objects, of all" in lines[2] and "0.0%" in lines[2]


@pytest.fixture
def measure(checkpoint, split, tmp_path):
    """Measures the checkpoint with some options; returns what is written."""

    def execute(*opts):
        cfg = checkpoint.cfg.clone()
        cfg.merge_from_list(list(opts))
        result = evaluate_alignment(cfg, split.name, tmp_path / "out")
        assert json.loads((tmp_path / "out" / RESULT_FILE).read_text()) == result
        return result

    return execute


def test_measures_what_the_model_gives(measure, checkpoint, split):
    result = measure()
    assert (result["split"], result["num_images"]) == (split.name, 4)
    cfg = checkpoint.cfg
    model, expected = load_model(cfg).eval(), AlignmentQuality(4)
    with torch.no_grad():
        for (record,) in build_test_loader(cfg, split.name):
            size = (record["height"], record["width"])
            truth = torch.from_numpy(read_mask(record["sem_seg_file_name"], size, 4))
            images = (record["image"][None].float() - model.pixel_mean) / model.pixel_std
            inter_tokens = model.backbone(images)["inter_tokens"]
            raw = model.inter_classifier.cam(inter_tokens)
            mask = object_mask(raw, record["image_labels"][None], 0.5)[0]
            small = record | dict(zip(("height", "width"), inter_tokens.shape[-2:], strict=True))
            maps = similarity_maps(model, small)
            expected.update(truth, mask, {k: torch.from_numpy(v) for k, v in maps.items()})
    for name, value in expected.compute().items():
        if value is None:
            assert result["quality"][name] is None
        else:
            assert np.isclose(result["quality"][name], value, atol=1e-5), name
    # 20 x 20 pixels of the 38 x 50 that have a truth.
    assert result["quality"]["object_fraction"] == pytest.approx(400 / 1900)


def test_a_model_without_common_space_has_the_mask_only(measure):
    quality = measure("MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False)["quality"]
    assert quality["mask_recall"] is not None
    assert all(value is None for name, value in quality.items() if "text" in name)


def test_a_system_without_alignment_is_refused(measure, monkeypatch):
    monkeypatch.setattr(alignment, "load_model", lambda cfg: nn.Identity())
    with refused("", "object-aware mask"):
        measure()


def test_a_split_without_masks_or_labels_is_refused(measure, split):
    for record in split.records[:2]:
        record.update(image_labels=[], unknown_labels=[0, 1, 2])
    for record in split.records[2:]:
        del record["sem_seg_file_name"]
    with refused(split.name):
        measure()


def make_model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture
def item():
    """A image of 24 x 40 pixels; 3 x 5 patches."""
    labels = torch.zeros(10)
    labels[[2, 7]] = 1
    pixels = torch.randint(0, 256, (3, 24, 40), generator=torch.Generator().manual_seed(1))
    return {"image": pixels.byte(), "height": 24, "width": 40, "image_labels": labels}


def literal_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def test_each_patch_lies_in_its_place(tiny_cfg, item):
    model = make_model(tiny_cfg)
    # One pixel a patch: nothing is interpolated.
    maps = similarity_maps(model, item | {"height": 3, "width": 5})
    assert list(maps) == [3, 8, 0]
    with torch.no_grad():
        normalized = (item["image"].float() - model.pixel_mean) / model.pixel_std
        tokens = model.backbone(normalized[None])["patch_tokens"][0]
        texts = {0: model.text_bg[0], 3: model.text_fg[2], 8: model.text_fg[7]}
        for label, text in texts.items():
            text = model.projections.text(text).tolist()
            for row in range(3):
                for column in range(5):
                    patch = model.projections.visual(tokens[:, row, column]).tolist()
                    expected = literal_cosine(patch, text)
                    assert maps[label][row, column] == pytest.approx(expected, abs=1e-5)


def test_maps_have_the_size_of_the_image(tiny_cfg, item):
    model = make_model(tiny_cfg)
    item.update(height=31, width=57)
    for one in similarity_maps(model, item).values():
        assert one.shape == (31, 57)
        assert one.dtype == np.float32
        assert -1 <= one.min() < one.max() <= 1


def test_image_without_labels_has_the_background_only(tiny_cfg, item):
    item["image_labels"].zero_()
    assert list(similarity_maps(make_model(tiny_cfg), item)) == [0]


def test_model_without_alignment_is_refused_in_a_sentence(tiny_cfg, item):
    tiny_cfg.MODEL.DALNET.GIA = tiny_cfg.MODEL.DALNET.LEA = False
    with refused("", "trained without alignment"):
        similarity_maps(make_model(tiny_cfg), item)

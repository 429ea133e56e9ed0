# SPDX-License-Identifier: Apache-2.0
"""Counts of M_obj and cosines against plain loops over pixels and patches."""

import numpy as np
import pytest
import torch

from dalnet.evaluation.alignment_quality import (
    AlignmentQuality,
    format_quality,
    pair_order,
    patch_shares,
)

PATCH, GRID, CLASSES = 4, (3, 5), 4


def random_image(seed):
    """A truth with ignored pixels, a mask, and cosines with two of three classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 3, 255], (6, 10))
    truth = torch.from_numpy(blocks.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8))
    mask = torch.from_numpy(rng.integers(0, 2, GRID).astype(np.float32))
    cosines = {label: torch.from_numpy(rng.uniform(-1, 1, GRID)) for label in (1, 3, 0)}
    return truth, mask, cosines


def literal_share(truth, row, column, wanted):
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
            ground = literal_share(truth, row, column, {0})
            objects = literal_share(truth, row, column, {1, 2, 3})
            masked = float(mask.flatten()[i])
            for name, value, weight in (
                ("object_share", 1, objects),
                ("object_share", 0, ground),
                ("mask_precision", 1, masked * objects),
                ("mask_precision", 0, masked * ground),
                ("mask_recall", masked, objects),
            ):
                add(name, value, weight)
            add("background_text_on_object", float(cosines[0][row, column]), objects)
            add("background_text_on_ground", float(cosines[0][row, column]), ground)
            for label, other in ((1, {2, 3}), (3, {1, 2})):
                value = float(cosines[label][row, column])
                own, rest = (literal_share(truth, row, column, w) for w in ({label}, other))
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
        quality.count(*image)
    assert quality.images == 4
    result = quality.result()
    expected = literal_quality(images)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-6), name


def test_patch_of_a_grid_that_does_not_divide_the_photograph():
    truth = torch.tensor([[0, 1, 1], [0, 1, 1], [2, 2, 255]])
    shares = patch_shares(truth, 3, (2, 2))
    # Two by two pixels each: those in the middle belong to both neighbours.
    assert shares[:, 0, 0].tolist() == [0.5, 0.5, 0]
    assert shares[:, 1, 1].tolist() == [0, 0.5, 0.25]


def test_order_of_pairs():
    values = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    positive = torch.tensor([[True, True], [False, False]])
    assert pair_order(values, positive, ~positive) == (1 + 1 + 0.5 + 0) / 4
    assert pair_order(values, positive, torch.zeros_like(positive)) is None


def test_what_was_not_counted_has_no_value_and_no_line():
    quality = AlignmentQuality(CLASSES)
    truth = torch.zeros(12, 20, dtype=torch.uint8)
    quality.count(truth, torch.zeros(GRID))
    result = quality.result()
    assert result["object_share"] == 0
    assert {name for name, value in result.items() if value is not None} == {"object_share"}
    lines = format_quality(result).splitlines()
    assert len(lines) == 3 and "pixels on objects, of all" in lines[2] and "0.0%" in lines[2]

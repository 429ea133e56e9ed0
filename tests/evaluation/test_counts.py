# SPDX-License-Identifier: Apache-2.0
"""Counts against plain loops, at every threshold, and saved, found again and added up."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dalnet.evaluation.counts import (
    Counts,
    bin_cams,
    class_ious,
    confusion_matrix,
    labeled_pixels,
    mean_iou,
    pixel_accuracy,
    thresholds_with,
)
from dalnet.evaluation.sources import make_measurements
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.meta_arch import DALNet


def random_map(rng, values):
    return rng.choice(values, (9, 11)).astype(np.uint8)


def test_matrix_and_what_follows_are_plain_counts():
    rng = np.random.default_rng(0)
    truth, prediction = random_map(rng, [0, 1, 2, 255]), random_map(rng, [0, 1, 3, 255])
    matrix = confusion_matrix(truth, prediction, 4)
    expected = np.zeros((4, 5), int)
    for t, p in zip(truth.reshape(-1), prediction.reshape(-1), strict=True):
        if t != 255:
            expected[t, 4 if p == 255 else p] += 1
    np.testing.assert_array_equal(matrix, expected)

    ious = class_ious(matrix)
    both = (truth != 255) & (prediction != 255)
    for c in range(3):
        inside = (both & (truth == c) & (prediction == c)).sum()
        union = (both & ((truth == c) | (prediction == c))).sum()
        assert ious[c] == pytest.approx(100 * inside / union)
    # Class 3 is predicted but not in the truth: it has no IoU and is not in the mean.
    assert np.isnan(ious[3]) and (prediction == 3).any()
    assert mean_iou(matrix) == pytest.approx(ious[:3].mean())
    assert labeled_pixels(matrix) == pytest.approx(100 * (prediction[truth != 255] != 255).mean())
    assert pixel_accuracy(matrix) == pytest.approx(100 * (truth == prediction)[both].mean())


def test_nothing_to_count_is_nan():
    matrix = confusion_matrix(np.full((2, 2), 255), np.zeros((2, 2), int), 3)
    assert not matrix.any()
    figures = mean_iou(matrix), pixel_accuracy(matrix), labeled_pixels(matrix)
    assert np.isnan([*figures, *class_ious(matrix)]).all()


def test_other_ignore_labels():
    truth, prediction = np.array([[0, 1, 9]]), np.array([[9, 1, 0]])
    np.testing.assert_array_equal(
        confusion_matrix(truth, prediction, 2, ignore=9), [[0, 0, 1], [0, 1, 0]]
    )


def test_thresholds_hold_the_wanted_value():
    thresholds = thresholds_with(0.333)
    assert len(thresholds) == 101
    assert np.float32(0.333) in thresholds
    assert len(thresholds_with(0.5)) == 100
    assert (np.diff(thresholds_with(0.5)) > 0.009).all()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_threshold_equals_its_own_evaluation(tiny_cfg, num_classes):
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    (cam,) = make_measurements(tiny_cfg, DALNet.sources, ["cam"], ["ss"])
    counts, images = Counts([cam], num_classes, 0.123), []
    for _ in range(3):
        cams = torch.rand(num_classes - 1, 8, 9, generator=generator)
        # Values equal to a threshold are background.
        cams[:, 0] = torch.from_numpy(rng.choice(counts.thresholds, (num_classes - 1, 9)))
        cams[:, 1] = 0
        truth = rng.choice([*range(num_classes), 255], (8, 9)).astype(np.uint8)
        images.append((cams, truth))
        binned = bin_cams(cams, range(num_classes - 1), counts.thresholds)
        counts.update("x", truth, {cam: binned})
    curve = counts.miou_curve(cam)
    assert curve.shape == counts.thresholds.shape
    for index, threshold in enumerate(counts.thresholds.tolist()):
        expected = 0
        for cams, truth in images:
            prediction = cam_scores(cams, threshold).argmax(dim=0).numpy()
            expected = expected + confusion_matrix(truth, prediction, num_classes)
        np.testing.assert_array_equal(counts.matrix(cam, index), expected)
        assert curve[index] == pytest.approx(mean_iou(expected))
        if threshold == np.float32(0.123):
            np.testing.assert_array_equal(counts.matrix(cam), expected)


def test_binned_classes_are_those_of_the_image():
    thresholds = np.array([0.5, 0.8], np.float32)
    cams = torch.tensor([[[0.2, 0.9]], [[0.6, 0.1]]])
    # Each class has three bins. The first pixel: class 7, one threshold exceeded; the second:
    # class 3, two thresholds exceeded.
    assert bin_cams(cams, (3, 7), thresholds).tolist() == [[3 * 7 + 1, 3 * 3 + 2]]
    nothing = bin_cams(cams[:0], (), thresholds)
    assert nothing.shape == (1, 2) and not nothing.any()


@pytest.fixture
def measurements(tiny_cfg):
    return make_measurements(tiny_cfg, DALNet.sources, ["sem_seg", "cam"], ["ss"])


def counted(measurements, names):
    counts = Counts(measurements, 3, 0.5)
    for name in names:
        rng = np.random.default_rng(int(name))
        truth, labels = rng.choice([0, 1, 2, 255], (4, 5)), rng.choice([0, 1, 2, 255], (4, 5))
        binned = rng.integers(0, 2 * (len(counts.thresholds) + 1), (4, 5))
        counts.update(name, truth, {measurements[0]: labels, measurements[1]: binned})
    return counts


def assert_equal(a, b):
    assert sorted(a.names) == sorted(b.names)
    assert (a.num_scored, a.num_labeled) == (b.num_scored, b.num_labeled)
    for one in a.measurements:
        np.testing.assert_array_equal(a.matrix(one), b.matrix(one))
        for index in range(0, len(a.thresholds), 9):
            np.testing.assert_array_equal(a.matrix(one, index), b.matrix(one, index))


def test_parts_are_saved_read_back_and_added_up(measurements, tmp_path):
    counted(measurements, "12").save(tmp_path / "a" / "one")
    merged = counted(measurements, "3")
    merged.merge(counted(measurements, "99").load(tmp_path / "a" / "one"))
    assert_equal(merged, counted(measurements, "123"))
    assert all(merged.matrix(one).sum() > 0 for one in measurements)


NAMES = {"names": '["1"]'}


def test_broken_files_are_none(measurements, tmp_path):
    counts = counted(measurements, "1")
    counts.save(tmp_path / "0")
    (tmp_path / "1").write_bytes((tmp_path / "0").read_bytes()[:-1])
    (tmp_path / "2").write_bytes(b"")
    save_file({"images": np.zeros(2)}, tmp_path / "3")
    arrays = load_file(tmp_path / "0")
    save_file({key: value[:1] for key, value in arrays.items()}, tmp_path / "5", NAMES)
    save_file({key: value * 0.5 for key, value in arrays.items()}, tmp_path / "6", NAMES)
    save_file(arrays, tmp_path / "7", {"names": '"1"'})
    save_file(arrays, tmp_path / "8", {"names": "[1]"})
    save_file(arrays, tmp_path / "9", NAMES)
    assert_equal(counts.load(tmp_path / "0"), counts)
    assert_equal(counts.load(tmp_path / "9"), counts)
    assert [counts.load(tmp_path / name) for name in "12345678"] == [None] * 8


def test_images_without_a_mask_are_noted_but_not_scored(measurements):
    counts, expected = counted(measurements, "1"), counted(measurements, "1")
    counts.update("2", None, {measurements[0]: np.zeros((4, 5), int)})
    assert (counts.names, counts.num_scored) == (["1", "2"], 1)
    counts.update("3", np.full((4, 5), 255), {measurements[0]: np.zeros((4, 5), int)})
    assert (counts.num_scored, counts.num_labeled) == (2, 1), "no CAM was measured on this one"
    for one in measurements:
        np.testing.assert_array_equal(counts.matrix(one), expected.matrix(one))

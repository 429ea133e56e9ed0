# SPDX-License-Identifier: Apache-2.0
"""Results written and read back, and files that are none."""

import csv
import json

import numpy as np
import pytest
from helpers import refused

from dalnet.evaluation.counts import Counts
from dalnet.evaluation.results import (
    format_results,
    left_out,
    read_results,
    summarize,
    write_results,
)
from dalnet.evaluation.sources import make_measurements
from dalnet.modeling.meta_arch import DALNet

CLASSES = ["background", "cat", "dog", "owl"]


@pytest.fixture
def result(split, tiny_cfg):
    """Two images of six pixels, without an owl; a CAM that is best from threshold 0.6 on."""
    measurements = make_measurements(
        tiny_cfg, DALNet.sources, ["sem_seg", "cam", "pseudo_label"], ["ss", "ms+flip+crf"]
    )
    counts = Counts(measurements, 4, 0.5)
    truth = np.array([[0, 1, 1], [2, 255, 255]])
    label_map = np.array([[0, 1, 255], [1, 3, 3]])
    # Of class 0, the cat: the background's pixel exceeds 60 thresholds, the others all of them.
    binned = np.array([[60, 100, 100], [100, 100, 100]])
    for name in "ab":
        predictions = {m: binned if m.has_curve else label_map for m in measurements}
        counts.update(name, truth, predictions)
    return summarize(tiny_cfg, split.name, CLASSES, counts, "abc", iteration=7)


def test_summary_by_hand(result, split):
    assert (result["split"], result["system"], result["iteration"]) == (split.name, "DALNet", 7)
    assert result["class_names"] == ["background", "cat", "dog", "owl"]
    assert [result[f"num_{name}"] for name in ("images", "scored", "labeled")] == [2, 2, 2]
    head, refined, cam, *_, pseudo, _ = result["measurements"]
    assert head["iou"] == {"background": 100, "cat": 50, "dog": 0, "owl": None}
    assert head["confusion"] == [[2, 0, 0, 0, 0], [0, 2, 0, 0, 2], [0, 2, 0, 0, 0], [0] * 5]
    assert (head["miou"], head["labeled"]) == (50, 75)
    assert head["pixel_accuracy"] == pytest.approx(200 / 3)
    assert refined["crf"]["iters"] == 10 and head["crf"] is None
    assert (refined["scales"], refined["flip"], head["flip"]) == ([1.0, 1.25, 1.5], True, False)
    assert [one["threshold"] for one in (head, cam, pseudo)] == [None, 0.5, [0.25, 0.7]]
    # Until 0.59 all is cat: IoU 0, 1/2, 0. From 0.6 on background is right too: 1, 2/3, 0.
    assert cam["miou"] == pytest.approx(50 / 3)
    assert (cam["best_threshold"], cam["best_miou"]) == (0.6, pytest.approx(500 / 9))
    curve = dict(zip(*cam["curve"].values(), strict=True))
    assert curve[0.59] == cam["miou"] and curve[0.6] == curve[0.99] == cam["best_miou"]
    assert [("curve" in one) for one in result["measurements"]] == [False] * 2 + [True] + [
        False
    ] * 3


def test_table_says_what_every_number_is(result, split):
    text = format_results(result)
    assert f"{split.name}, 2 images" in text and "owl" in text.splitlines()[-1]
    assert "dog" not in text, "shown but never predicted is an IoU of 0"
    for part in ("segmentation head", "ms+flip+crf", "1.0, 1.25, 1.5", "0.25 / 0.7", "55.6 at 0.6"):
        assert part in text


def test_classes_that_a_mean_lacks_are_named(split, tiny_cfg):
    sources = ["pseudo_label", "sem_seg"]
    measurements = make_measurements(tiny_cfg, DALNet.sources, sources, ["ss"])
    counts = Counts(measurements, 4, 0.5)
    truth = np.array([[0, 1, 2, 2]])
    head, pseudo = measurements
    counts.update("a", truth, {head: truth, pseudo: np.array([[0, 1, 255, 255]])})
    result = summarize(tiny_cfg, split.name, CLASSES, counts, "abc")
    assert result["measurements"][1]["miou"] == 100
    sentences = left_out(result["measurements"])
    assert sentences == [
        "Left out of every mean, as no mask shows them: owl",
        "Left out of the mean of pseudo label ss, as none of their pixels counts there: dog",
    ]
    assert format_results(result).endswith("\n".join(sentences))
    # By itself, too: its masks show the dog.
    assert left_out(result["measurements"][1:]) == sentences


def test_files_hold_everything(result, tmp_path):
    write_results(result, tmp_path)
    assert read_results(tmp_path / "results.json") == json.loads(json.dumps(result))
    with (tmp_path / "results.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 6
    for line, one in zip(lines, result["measurements"], strict=True):
        assert (line["source"], line["protocol"]) == (one["source"], one["protocol"])
        assert (line["split"], line["weights_sha256"]) == (result["split"], "abc")
        assert float(line["miou"]) == one["miou"]
        assert line["iou:owl"] == ""
        assert (line["crf"] == "True") == (one["crf"] is not None)
    assert lines[1]["scales"] == "1.0 1.25 1.5" and lines[4]["threshold"] == "0.25 0.7"


def test_nothing_scored(tiny_cfg, split, tmp_path, caplog):
    counts = Counts(make_measurements(tiny_cfg, DALNet.sources, [], ["ss"]), 4, 0.5)
    counts.update("a", None, {})
    result = summarize(tiny_cfg, split.name, CLASSES, counts, None)
    assert (result["num_images"], result["num_scored"], result["measurements"]) == (1, 0, [])
    assert "iteration" not in result
    write_results(result, tmp_path)
    assert "nothing was scored" in caplog.text
    assert read_results(tmp_path / "results.json")["measurements"] == []


@pytest.mark.parametrize("text", ["", "{", "[1", "\udcff", None])
def test_unreadable_files(tmp_path, text):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with refused(path):
        read_results(path)


@pytest.mark.parametrize("content", [[], 3, "measurements", {"split": "s", "rows": []}])
def test_other_contents_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with refused(path):
        read_results(path)


@pytest.mark.parametrize("key", ["split", "num_scored", "measurements", "miou", "labeled", "iou"])
def test_a_missing_key_is_named(result, tmp_path, key):
    write_results(result, tmp_path)
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    del (content if key in content else content["measurements"][1])[key]
    path.write_text(json.dumps(content))
    with refused(path, key):
        read_results(path)
    content["measurements"] = 7
    path.write_text(json.dumps(content))
    with refused(path):
        read_results(path)

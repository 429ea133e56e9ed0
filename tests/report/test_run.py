# SPDX-License-Identifier: Apache-2.0
"""The report as a whole: what it finds, what it runs, what it says is missing."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused
from PIL import Image
from torch import nn

from dalnet.checkpoint import load_model
from dalnet.cli import report
from dalnet.errors import UsageError
from dalnet.evaluation.counts import confusion_matrix, mean_iou
from dalnet.figures.images import predict_images
from dalnet.io import sha256
from dalnet.modeling.meta_arch.segmentor import Source
from dalnet.modeling.multi_scale import CAMSettings
from dalnet.report import run as report_run
from dalnet.report.run import read_metrics, write_report

SPLIT = "voc_2012_sem_seg_val"


@pytest.fixture
def tool(voc_tree, voc_model):
    """Returns a function that runs the command on the tree's val split and returns the page."""

    def execute(*arguments, split=SPLIT):
        parser = argparse.ArgumentParser()
        report.add_arguments(parser)
        own = ["--split", split, *arguments, "--weights", voc_model.weights]
        report.run(parser.parse_args([str(part) for part in own]))
        page = voc_model.weights.parent / "report" / split / "report.html"
        return page.read_text(encoding="utf-8")

    return execute


@pytest.fixture
def cfg(voc_model):
    voc_model.cfg.MODEL.WEIGHTS = str(voc_model.weights)
    voc_model.cfg.MODEL.CLIP.SOURCE = "checkpoint"
    voc_model.cfg.TEST.EVAL_CAM = True
    return voc_model.cfg


def notes(page):
    return re.findall(r'<p class="note">(.*?)</p>', page)


def cards(page):
    """(groups, name, score) of each card."""
    return re.findall(
        r'data-groups="([\w ]+)".*?<h3>(\w+)</h3>.*?<p class="small">(.*?)</p>', page, re.DOTALL
    )


def write_results(path, **changes):
    measured = {"source": "sem_seg", "protocol": "ss", "scales": [1.0], "flip": False, "crf": None}
    measured |= {"threshold": None, "miou": 12.34, "iou": {"cat": 12.34}, "labeled": 100.0}
    result = {"split": SPLIT, "num_images": 4, "num_scored": 4, "weights_sha256": "0"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"measurements": [measured]} | changes))


def test_images_are_chosen_by_the_models_own_scores(tool, cfg, voc_tree):
    records, scores = DatasetCatalog.get(SPLIT), {}
    results = list(predict_images(cfg, load_model(cfg), SPLIT, records))
    for result, wrong in zip(results, (15, 40, 5, 30), strict=True):
        truth = result.label_maps["prediction"].copy()
        truth[:, :wrong] = (truth[:, :wrong] + 1) % 21
        Image.fromarray(truth).save(voc_tree.voc / "SegmentationClass" / f"{result.name}.png")
        scores[result.name] = mean_iou(confusion_matrix(truth, result.label_maps["prediction"], 21))
    ranked = sorted(scores, key=scores.get, reverse=True)
    page = tool("--images", 2)
    found = cards(page)
    assert [name for groups, name, _ in found if "best" in groups] == ranked[:2]
    assert [name for groups, name, _ in found if "worst" in groups] == ranked[:1:-1]
    assert sum("random" in groups for groups, _, _ in found) == 2
    for _, name, text in found:
        assert f"mIoU {scores[name]:.1f} %" in text
    assert page.count("<img ") == 5 * len(found)
    assert sha256(Path(cfg.MODEL.WEIGHTS)) in page


def test_what_lies_beside_the_weights_is_found(tool, voc_model):
    folder = voc_model.weights.parent
    sha = sha256(voc_model.weights)
    write_results(folder / "evaluation" / SPLIT / "results.json", weights_sha256=sha)
    (folder / "metrics.json").write_text(json.dumps({"iteration": 1, "cam/mIoU": 45.67}))
    page = tool("--images", 1, "--colorblind")
    assert notes(page) == []
    assert "<td>12.3</td>" in page
    assert "CAM: 45.7 at the end" in page


def test_what_is_missing_is_named(tool, voc_tree):
    lists, tags = voc_tree.voc / "ImageSets" / "Segmentation", voc_tree.voc / "image_tags.json"
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    tags.write_text(json.dumps(dict.fromkeys(json.loads(tags.read_text()), [])))
    page = tool(split="voc_2012_sem_seg_test")
    for note, what in zip(notes(page), ("results", "curves", "best", "CAMs"), strict=True):
        assert what in note
    assert [groups for groups, _, _ in cards(page)] == ["random"] * 4
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == ["image", "prediction"] * 4


def test_numbers_of_something_else_are_called_so_or_refused(tool, voc_model, tmp_path):
    write_results(tmp_path / "a.json", weights_sha256=None)
    write_results(tmp_path / "b.json", split="other", weights_sha256=sha256(voc_model.weights))
    page = tool("--results", tmp_path / "a.json", "--results", tmp_path / "b.json", "--images", 1)
    _, *others = notes(page)
    assert [re.findall(r"\w\.json|which weights|on other", note) for note in others] == [
        *(["a.json", "which weights"], ["b.json", "on other"])
    ]
    other = voc_model.weights.parent / "evaluation" / SPLIT / "ss" / "results.json"
    write_results(other)
    assert "12.3" not in tool("--images", 1)  # of a checkpoint that is not the run's newest
    with refused("results.json", "other weights"):
        tool("--images", 1, "--results", other)


class CAMOnly(nn.Module):
    """A system without a segmentation head: all of the image is its first class."""

    sources = {"cam": Source("CAM", "cam")}
    class_names = MetadataCatalog.get(SPLIT).stuff_classes
    cam_settings = CAMSettings()

    def forward(self, inputs):
        (item,) = inputs
        ones = torch.ones(item["height"], item["width"])
        return [{"cam": item["image_labels"][:, None, None] * ones}]


def test_system_without_a_head_is_scored_by_its_cams(cfg, monkeypatch, tmp_path):
    monkeypatch.setattr(report_run, "load_model", lambda cfg: CAMOnly())
    write_report(cfg, SPLIT, tmp_path / "page.html", config_name="c.yaml", images=1)
    page = (tmp_path / "page.html").read_text()
    assert "segmentation head: " not in page
    found = cards(page)
    # 400 of 2000 pixels are of the class, and none is taken for background.
    assert all("(background 0.0," in text and "20.0)" in text for _, _, text in found)
    assert np.unique([groups.split()[0] for groups, _, _ in found]).tolist() == ["best", "worst"]


def test_bad_arguments_are_one_sentence(cfg, tmp_path):
    for changes, where, word in (
        ({"images": 0}, "images", "0"),
        ({"images": 41}, "images", "41"),
        ({"run": tmp_path / "nowhere"}, "run", "nowhere"),
    ):
        with refused(where, word):
            write_report(cfg, SPLIT, tmp_path / "page.html", **changes)
    with pytest.raises(UsageError, match=r"nothing\.json"):
        write_report(cfg, SPLIT, tmp_path / "page.html", results=[tmp_path / "nothing.json"])
    assert not (tmp_path / "page.html").exists()


def test_metrics_of_a_killed_and_resumed_training(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == {}
    lines = [
        '{"iteration": 19, "lr": 0.5}',
        '{"iteration": 39, "lr": 0.4, "sem_seg/mIoU": 12.5}',
        '{"iteration": 59, "l',
        '{"iteration": 39, "lr": 0.75}',
        '{"iteration": 59, "lr',
    ]
    path.write_text("\n".join(lines))
    assert read_metrics(path) == {"lr": {19: 0.5, 39: 0.75}, "sem_seg/mIoU": {39: 12.5}}


def test_odd_lines_of_metrics_are_left_out_with_a_warning(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    odd = [
        "[1]",
        "7",
        '"x"',
        '{"iteration": -1, "lr": 0.5}',
        '{"iteration": NaN, "lr": 0.5}',
        '{"iteration": 1e308, "lr": 0.5}',
        "",
        '{"lr": 1}',
        '{"iteration": 9, "lr": "fast"}',
        '{"iteration": []}',
    ]
    path.write_text("\n".join(['{"iteration": 19, "lr": NaN, "a": null}', *odd]))
    metrics = read_metrics(path)
    assert metrics["a"] == {19: None} and np.isnan(metrics["lr"][19]) and len(metrics) == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(odd) and "line 2 " in lines[0]


def test_a_second_training_in_the_folder_takes_the_place_of_the_first(tmp_path):
    path = tmp_path / "metrics.json"
    rates = [(19, 0.5), (39, 0.4), (59, 0.3), (19, 0.2), (39, 0.1)]
    path.write_text("\n".join(f'{{"iteration": {i}, "lr": {rate}}}' for i, rate in rates))
    assert read_metrics(path) == {"lr": {19: 0.2, 39: 0.1}}

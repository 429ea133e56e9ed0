# SPDX-License-Identifier: Apache-2.0
"""tools/report.py as a whole: what it finds, what it runs, what it says is missing."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalnet.data import build_test_loader
from dalnet.engine import run
from dalnet.engine.trainer import load_model
from dalnet.errors import UsageError
from dalnet.evaluation.confusion import confusion_matrix, mean_iou
from dalnet.figures.colorblind import colorblind_palette
from dalnet.figures.sheet import collect_rows
from dalnet.files import sha256
from dalnet.report.run import ReportJob, write_run_report

TOOL = Path(__file__).parents[2] / "tools" / "report.py"
SPLIT = "voc_2012_sem_seg_val"


@pytest.fixture
def tool(voc_tree, voc_model, monkeypatch):
    """Runs the tool with fresh weights on the tree's val split; returns the page's text."""
    spec = importlib.util.spec_from_file_location("report", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(*arguments, split=SPLIT):
        command = ["report.py", "--config-file", voc_tree.config, "--split", split]
        command += [*arguments, "MODEL.WEIGHTS", execute.weights]
        monkeypatch.setattr("sys.argv", [str(part) for part in command])
        run(module.main, module.parse_args())
        return (execute.pages / split / "report.html").read_text(encoding="utf-8")

    execute.voc, execute.config = voc_tree.voc, voc_model.cfg
    execute.run, execute.weights = voc_model.weights.parent, voc_model.weights
    execute.pages = voc_tree.output / "report"
    return execute


def notes(page):
    return re.findall(r'<p class="note">(.*?)</p>', page)


def cards(page):
    """(groups, name, score) of each card."""
    return re.findall(
        r'data-groups="([\w ]+)".*?<h3>(\w+)</h3>.*?<p class="small">(.*?)</p>', page, re.DOTALL
    )


def write_results(path, **changes):
    row = {
        "source": "seg",
        "protocol": "ss",
        "scales": [1.0],
        "flip": False,
        "crf": None,
        "threshold": None,
        "miou": 12.34,
        "iou": {"background": 12.34},
        "labelled": 100.0,
    }
    result = {
        "split": SPLIT,
        "num_images": 4,
        "num_scored": 4,
        "weights_sha256": "0",
        "rows": [row],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | changes))


def test_images_are_chosen_by_the_models_own_scores(tool):
    cfg = tool.config
    cfg.MODEL.WEIGHTS = str(tool.weights)
    inputs = [item for batch in build_test_loader(cfg, SPLIT) for item in batch]
    scores = {}
    for row, wrong in zip(collect_rows(load_model(cfg), inputs), (15, 40, 5, 30), strict=True):
        truth = row.prediction.astype(np.uint8)
        truth[:, :wrong] = (truth[:, :wrong] + 1) % 21
        Image.fromarray(truth).save(tool.voc / "SegmentationClass" / f"{row.name}.png")
        scores[row.name] = mean_iou(confusion_matrix(truth, row.prediction, 21))
    ranked = sorted(scores, key=scores.get, reverse=True)
    assert [name[-1] for name in ranked] == ["2", "0", "3", "1"]
    page = tool("--images", 2)
    found = cards(page)
    assert [name for groups, name, _ in found if "best" in groups] == ranked[:2]
    assert [name for groups, name, _ in found if "worst" in groups] == ranked[:1:-1]
    assert sum("random" in groups for groups, _, _ in found) == 2
    for _, name, text in found:
        assert f"mIoU {scores[name]:.1f} %" in text
    assert page.count("<img ") == 5 * len(found)
    assert sha256(tool.weights) in page
    assert "4, 4 of them with a mask" in page


def test_what_lies_beside_the_weights_is_found(tool):
    write_results(
        tool.run / "evaluation" / SPLIT / "results.json", weights_sha256=sha256(tool.weights)
    )
    metrics = [{"iteration": 0, "loss_seg": 3.5}, {"iteration": 1, "cam/mIoU": 45.67, "lr": 0.1}]
    text = "\n".join(json.dumps(line) for line in metrics) + '\n{"iteration": 2, "loss'
    (tool.run / "metrics.json").write_text(text)
    settings = tool.config.clone()
    settings.DATASETS.TEST = ("some_val",)
    settings.MODEL.DALNET.CAM.BACKGROUND_THRESHOLD = 0.375
    (tool.run / "config.yaml").write_text(settings.dump())
    page = tool()
    assert notes(page) == []
    assert "<td>12.3</td>" in page
    protocol = "scales 1.0, 0.5 + mirror, image labels given, threshold 0.375"
    assert f"some_val, CAM: {protocol}: 45.7 at the end" in page
    assert "loss_seg: 3.5 at 0." in page


def test_what_is_missing_is_named(tool):
    lists, tags = tool.voc / "ImageSets" / "Segmentation", tool.voc / "image_tags.json"
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    tags.write_text(json.dumps(dict.fromkeys(json.loads(tags.read_text()), [])))
    page = tool(split="voc_2012_sem_seg_test")
    assert [note.split(":")[0] for note in notes(page)] == [
        "No results table and no IoU by class",
        "No curves of the training",
        "No best and worst images and no truth",
        "No CAMs and pseudo labels in the gallery",
    ]
    assert [groups for groups, _, _ in cards(page)] == ["random"] * 4
    shown = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert shown == ["photo", "prediction"] * 4


@pytest.mark.parametrize("text", [None, "", "- 1\n", "MODEL: 3\n", "_BASE_: config.yaml\n"])
def test_settings_that_cannot_be_read_are_noted(tool, text):
    (tool.run / "metrics.json").write_text(json.dumps({"iteration": 1, "sem_seg/mIoU": 33.3}))
    if text is not None:
        (tool.run / "config.yaml").write_text(text)
    page = tool("--images", 1)
    (unknown,) = [note for note in notes(page) if "are unknown" in note]
    assert unknown.endswith(f"{tool.run}/config.yaml is missing or cannot be read.")
    assert "sem_seg/mIoU: 33.3 at the end" in page


def test_numbers_of_something_else_are_called_so(tool, tmp_path):
    write_results(tmp_path / "a.json")
    write_results(tmp_path / "b.json", split="other", weights_sha256=sha256(tool.weights))
    (tool.run / "metrics.json").write_text(json.dumps({"iteration": 1, "sem_seg/mIoU": 33.3}))
    page = tool("--results", tmp_path / "a.json", "--results", tmp_path / "b.json", "--images", 1)
    unknown, *others = notes(page)
    assert unknown.startswith("Split, protocol and threshold of the mIoU over the iterations are")
    assert others == [
        f"{tmp_path}/a.json was measured with other weights than the gallery shows.",
        f"{tmp_path}/b.json was measured on other, not {SPLIT}.",
    ]
    assert "sem_seg/mIoU: 33.3 at the end" in page


def test_colorblind_page_has_other_colours(tool, tmp_path):
    path = tmp_path / "new" / "page.html"
    with pytest.raises(FileNotFoundError):
        tool("--images", 1, "--colorblind", "--output", path)  # nothing at the usual place
    page = path.read_text(encoding="utf-8")
    legend = re.findall(r"background:(rgb\([\d,]+\))", page)
    own = [f"rgb({r},{g},{b})" for r, g, b in colorblind_palette(21)]
    assert len(legend) > 2
    assert set(legend) <= {*own, "rgb(224,224,192)"}


def test_bad_arguments_are_one_sentence(tool, capsys, tmp_path):
    for flags in (("--num-gpus", 2), ("--resume",)):
        with pytest.raises(SystemExit) as error:
            tool(*flags)
        assert error.value.code == 1
        assert f"error: {flags[0]}" in capsys.readouterr().err
    page = tmp_path / "page.html"
    job = ReportJob("c.yaml", SPLIT, None, (), page, images=1, colorblind=False)
    tool.config.MODEL.WEIGHTS = str(tool.weights)
    for changes, fault in (
        ({"images": 0}, "--images is 0"),
        ({"images": 41}, "--images is 41"),
        ({"run": tmp_path / "nowhere"}, "--run .*nowhere is no folder"),
        ({"results": (tmp_path / "nothing.json",)}, "nothing.json cannot be read"),
    ):
        with pytest.raises(UsageError, match=fault):
            write_run_report(tool.config, dataclasses.replace(job, **changes))
    assert not page.exists()

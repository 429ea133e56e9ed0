# SPDX-License-Identifier: Apache-2.0
"""tools/evaluate.py as a whole: its numbers, its files, interrupts, and splits with gaps."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalnet.engine import DALNetTrainer, run
from dalnet.engine.trainer import load_model
from dalnet.evaluation import streaming
from dalnet.evaluation.confusion import class_ious

ROOT = Path(__file__).parents[2]
ALL = ("--sources", "seg,cam,cam_inter,pseudo")
SPLIT = "voc_2012_sem_seg_val"


def load_tool():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "tools" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(voc_tree, voc_model, monkeypatch):
    """Runs the tool on the tree's val split with fresh weights; returns results.json."""

    def execute(*arguments, split=SPLIT):
        command = ["evaluate.py", "--config-file", voc_tree.config, "--split", split]
        command += ["--workers", 1, *arguments, "MODEL.WEIGHTS", voc_model.weights]
        monkeypatch.setattr("sys.argv", [str(part) for part in command])
        module = load_tool()
        run(module.main, module.parse_args())
        return json.loads((execute.output / "results.json").read_text())

    execute.voc, execute.weights, execute.config = voc_tree.voc, voc_model.weights, voc_model.cfg
    execute.output = voc_tree.output / "evaluation" / SPLIT
    return execute


def sentence(capsys, call, *arguments, **options):
    with pytest.raises(SystemExit) as error:
        call(*arguments, **options)
    assert error.value.code == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_numbers_are_those_of_the_training_evaluation(tool):
    result = tool(*ALL, "--protocols", "ss,ms+flip")
    cfg = tool.config
    cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST = str(tool.weights), (SPLIT,)
    expected = DALNetTrainer.test(cfg, load_model(cfg))
    rows = {(row["source"], row["protocol"]): row for row in result["rows"]}
    keys = {"cam": "ms+flip", "cam_inter": "ms+flip", "seg": "ss", "pseudo": "ms+flip"}
    names = {"seg": "sem_seg", "pseudo": "pseudo_label"}
    for source, protocol in keys.items():
        row, theirs = rows[source, protocol], expected[names.get(source, source)]
        assert row["miou"] == pytest.approx(theirs["mIoU"])
        assert row["labelled"] == pytest.approx(theirs["labelled"], abs=0.5)
        shown = {name for name, value in row["iou"].items() if value is not None}
        assert shown == {"background", "cat", "dog"}
        for name in shown:
            assert row["iou"][name] == pytest.approx(theirs[f"IoU-{name}"])
        matrix = np.array(row["confusion"])
        assert class_ious(matrix)[0] == pytest.approx(row["iou"]["background"])
    cam = rows["cam", "ms+flip"]
    assert cam["curve"]["miou"][cam["curve"]["thresholds"].index(0.5)] == cam["miou"]
    assert cam["best_miou"] == max(cam["curve"]["miou"])
    assert (result["num_images"], result["num_scored"]) == (4, 4)
    assert len(result["weights_sha256"]) == 64
    assert result["config"]["MODEL"]["DALNET"]["CAM"]["SCALES"] == [1.0, 0.5]


def test_csv_has_a_line_for_every_row(tool):
    result = tool("--protocols", "ss+flip,ss+crf", "TEST.CRF.ITERS", 1)
    with open(tool.output / "results.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(result["rows"]) == 8
    for line, row in zip(lines, result["rows"], strict=True):
        assert (line["source"], line["protocol"]) == (row["source"], row["protocol"])
        assert float(line["miou"]) == row["miou"]
        assert line["iou:person"] == ""
        assert (line["crf"] == "True") == (row["crf"] is not None)


def test_crf_rows_differ_and_label_everything(tool):
    result = tool(*ALL, "--protocols", "ss,ss+crf", "TEST.CRF.BI_XY_STD", 5.0)
    rows = {(row["source"], row["protocol"]): row for row in result["rows"]}
    assert rows["pseudo", "ss+crf"]["labelled"] == 100 > rows["pseudo", "ss"]["labelled"]
    assert rows["cam", "ss+crf"]["confusion"] != rows["cam", "ss"]["confusion"]
    assert rows["seg", "ss+crf"]["crf"]["bi_xy_std"] == 5


def test_an_interrupted_run_goes_on(tool, monkeypatch, capsys):
    arguments = (*ALL, "--protocols", "ss,ss+crf", "TEST.CRF.ITERS", 2)
    expected = tool(*arguments)
    shutil.rmtree(tool.output)
    seen = []
    start = streaming.Stream._start

    def interrupted(self, item):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(item["image_id"])
        start(self, item)

    monkeypatch.setattr(streaming.Stream, "_start", interrupted)
    monkeypatch.setattr(streaming._Pending, "is_ready", lambda self: True)  # done in order
    assert "interrupted; 2 images are done" in sentence(capsys, tool, *arguments)
    assert not (tool.output / "results.json").exists()

    def counted(self, item):
        seen.append(item["image_id"])
        start(self, item)

    monkeypatch.setattr(streaming.Stream, "_start", counted)
    assert tool(*arguments) == expected
    assert len(seen) == len(set(seen)) == 4
    assert not list(tool.output.glob(".progress*"))
    tool(*arguments)
    assert len(seen) == 8, "a finished evaluation starts anew"


def test_progress_of_other_settings_is_not_taken(tool, monkeypatch, capsys):
    start = streaming.Stream._start
    seen = []

    def once(self, item):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        start(self, item)

    monkeypatch.setattr(streaming.Stream, "_start", once)
    sentence(capsys, tool, "--sources", "cam", "--protocols", "ss")
    monkeypatch.setattr(streaming.Stream, "_start", start)
    options = ("MODEL.DALNET.CAM.BACKGROUND_THRESHOLD", 0.3)
    result = tool("--sources", "cam", "--protocols", "ss", *options)
    assert (result["num_images"], result["rows"][0]["threshold"]) == (4, 0.3)


def test_dump_can_be_read_as_training_masks(tool, tmp_path):
    tool(*ALL, "--protocols", "ss,ss+crf", "--dump", tmp_path / "dump", "TEST.CRF.ITERS", 1)
    for row in ("seg/ss", "seg/ss+crf", "pseudo/ss", "cam/ss+crf"):
        folder = tmp_path / "dump" / row
        names = (folder / "ImageSets/Segmentation" / f"{SPLIT}.txt").read_text().split()
        assert len(names) == 4
        for name in names:
            assert Image.open(folder / "SegmentationClass" / f"{name}.png").size == (50, 40)
    for name in names:
        with np.load(tmp_path / "dump/cam/ss/CAM" / f"{name}.npz") as arrays:
            assert arrays["cams"].shape == (1, 40, 50)
    assert not (tmp_path / "dump/cam/ss/SegmentationClass").exists()


def test_split_without_masks_is_predicted_but_not_scored(tool, tmp_path, caplog):
    lists = tool.voc / "ImageSets" / "Segmentation"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    dump, split = tmp_path / "dump", "voc_2012_sem_seg_test"
    tool.output = tool.output.with_name(split)
    arguments = ("--sources", "seg", "--protocols", "ss", "--dump", dump)
    result = tool(*arguments, split=split)
    assert (result["num_images"], result["num_scored"], result["rows"]) == (4, 0, [])
    assert "4 of the 4 images of voc_2012_sem_seg_test have no mask" in caplog.text
    assert "nothing was scored" in caplog.text
    assert len(list((dump / "seg/ss/SegmentationClass").iterdir())) == 4


def test_cams_of_a_split_without_labels_are_refused(tool, capsys):
    lists = tool.voc / "ImageSets" / "Segmentation"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    line = sentence(capsys, tool, *ALL, split="voc_2012_sem_seg_test")
    assert "has no image-level labels" in line and "--sources seg" in line


def test_cams_are_scored_on_labelled_images_only(tool, tmp_path, caplog):
    tags_file, val = tool.voc / "image_tags.json", tool.voc / "ImageSets/Segmentation/val.txt"
    arguments = (*ALL, "--protocols", "ms+flip,ss+crf", "TEST.CRF.ITERS", 1)
    whole = tool(*arguments)
    assert "image-level label" not in caplog.text
    tags = json.loads(tags_file.read_text())
    labelled, names = list(tags)[:2], val.read_text()
    tags_file.write_text(json.dumps({name: tags[name] for name in labelled}))
    found = tool("--dump", tmp_path / "dump", *arguments)
    assert f"2 of 4 images of {SPLIT} have no image-level label" in caplog.text
    assert (found["num_images"], found["num_scored"]) == (4, 4)
    cfg = tool.config
    cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST = str(tool.weights), (SPLIT,)
    training = DALNetTrainer.test(cfg, load_model(cfg))
    val.write_text("\n".join(labelled))
    part = tool(*arguments)
    for row, of_all, of_part in zip(found["rows"], whole["rows"], part["rows"], strict=True):
        assert row == (of_all if row["source"] == "seg" else of_part)
        if row["source"] == "cam" and row["protocol"] == "ms+flip":
            assert training["cam"]["mIoU"] == pytest.approx(row["miou"])
    for row, listed in (("seg/ms+flip", names.split()), ("pseudo/ms+flip", labelled)):
        folder = tmp_path / "dump" / row
        text = (folder / "ImageSets/Segmentation" / f"{SPLIT}.txt").read_text()
        assert text.split() == listed == sorted(p.stem for p in folder.glob("Seg*/*"))


def test_mask_of_another_size_is_named_and_nothing_is_lost(tool, capsys):
    name = (tool.voc / "ImageSets/Segmentation/val.txt").read_text().split()[2]
    mask = tool.voc / "SegmentationClass" / f"{name}.png"
    kept = mask.read_bytes()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(mask)
    arguments = ("--sources", "seg", "--protocols", "ss")
    assert f"{name}.png is (4, 4)" in sentence(capsys, tool, *arguments)
    mask.write_bytes(kept)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        start = streaming.Stream._start
        patch.setattr(streaming.Stream, "_start", lambda s, item: seen.append(1) or start(s, item))
        assert tool(*arguments)["num_images"] == 4
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--sources", "boxes"), "'boxes' is no source"),
        (("--protocols", "tta"), "'tta' is no protocol"),
        (("--workers", "0"), "--workers is 0"),
        (("--resume",), "--resume: an interrupted evaluation goes on by itself"),
        (("--protocols", "ss+crf", "TEST.CRF.BACKEND", "gpu"), "TEST.CRF.BACKEND is 'gpu'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tool, capsys, arguments, part):
    assert part in sentence(capsys, tool, *arguments)


def test_equal_names_are_refused(tool, capsys):
    split = tool.voc / "ImageSets/Segmentation/val.txt"
    name = split.read_text().split()[0]
    split.write_text(split.read_text() + f"{name}\n")
    assert f"2 images whose file is called {name}" in sentence(capsys, tool)


def test_empty_split_and_unknown_split_are_refused(tool, capsys):
    (tool.voc / "ImageSets/Segmentation/val.txt").write_text("\n")
    assert "val.txt is empty" in sentence(capsys, tool)
    assert "unknown data set 'nowhere'" in sentence(capsys, tool, split="nowhere")

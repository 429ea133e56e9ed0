# SPDX-License-Identifier: Apache-2.0
"""SBD masks, the community's label files, and the commands around them."""

import json
import pickle
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.prepare.image_labels import convert_image_labels, read_label_file
from dalnet.data.prepare.masks import write_masks
from dalnet.data.prepare.sbd import prepare_sbd
from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def run_tool(monkeypatch):
    """Run a command in this process; a new one would import torch and Detectron2 every time."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(TOOLS / name), run_name="__main__")

    return run


@pytest.fixture
def last_words(run_tool, capsys):
    """Run a command that has to fail; returns the exit status and the last line on stderr."""

    def run(name, *arguments):
        with pytest.raises(SystemExit) as error:
            run_tool(name, *arguments)
        return error.value.code, capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture
def releases(tmp_path):
    """SBD with s1, s2, v1; VOC with t1 and s2 in train, v1 in val."""
    sbd, voc = tmp_path / "sbd", tmp_path / "VOC2012"
    for folder in (sbd / "cls", voc / "ImageSets/Segmentation", voc / "SegmentationClass"):
        folder.mkdir(parents=True)
    (sbd / "train.txt").write_text("s1\ns2\n")
    (sbd / "val.txt").write_text("v1\n")
    (voc / "ImageSets/Segmentation/train.txt").write_text("t1\ns2\n")
    (voc / "ImageSets/Segmentation/val.txt").write_text("v1\n")
    for value, name in enumerate(("s1", "s2", "v1"), start=1):
        write_mat(sbd, name, np.full((4, 5), value, dtype=np.uint8))
    for value, name in ((11, "t1"), (12, "s2"), (255, "v1")):
        mask = Image.new("P", (5, 4), value)
        mask.putpalette(bytes(range(256)) * 3)
        mask.save(voc / "SegmentationClass" / f"{name}.png")
    return sbd, voc


def write_mat(sbd, name, mask):
    savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask, "Boundaries": 0}})


def test_sbd_fills_up_the_official_split(releases):
    sbd, voc = releases
    summary, listed = prepare_sbd(sbd, voc, workers=1)
    assert (summary.written, listed) == (4, 3)
    assert (voc / "ImageSets/Segmentation/train_aug.txt").read_text() == "s1\ns2\nt1\n"
    # Official masks go before SBD's.
    for name, value in {"s1": 1, "s2": 12, "t1": 11, "v1": 255}.items():
        mask = np.array(Image.open(voc / "SegmentationClassAug" / f"{name}.png"))
        assert mask.shape == (4, 5) and (mask == value).all()
    assert prepare_sbd(sbd, voc, workers=1)[0].kept == 4


def test_sbd_that_is_incomplete_or_foreign_is_named(releases, last_words):
    sbd, voc = releases
    write_mat(sbd, "s1", np.full((2, 2), 21))
    with pytest.raises(UsageError, match="s1.mat holds the value 21"):
        prepare_sbd(sbd, voc, workers=1)
    (sbd / "cls" / "s1.mat").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="s1.mat cannot be read"):
        prepare_sbd(sbd, voc, workers=1)
    (sbd / "cls" / "s1.mat").unlink()
    status, sentence = last_words("prepare_sbd.py", sbd, "--voc", voc, "--workers", 1)
    assert status == 1 and sentence.startswith("error: mask ") and "s1.mat" in sentence
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()
    (sbd / "val.txt").unlink()
    with pytest.raises(UsageError, match="val.txt"):
        prepare_sbd(sbd, voc, workers=1)


def one_hot(*labels, count=20):
    vector = np.zeros(count, dtype=np.float32)
    vector[list(labels)] = 1
    return vector


def save_labels(path, content, protocol=3):
    """What numpy.save writes for a dictionary, with any protocol (old numpy wrote 2)."""
    array = np.empty((), dtype=object)
    array[()] = content
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(array, file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, "numpy"])
def test_label_files_become_tags_that_the_loader_reads(tmp_path, protocol):
    content = {"2007_000063": one_hot(11, 8), "2007_000027": one_hot(14)}
    source, root = tmp_path / "cls_labels.npy", tmp_path / "VOC2012"
    if protocol == "numpy":
        np.save(source, content)
    else:
        save_labels(source, content, protocol)
    assert convert_image_labels(source, root / "image_tags.json", VOC_CLASSES) == 2
    tags = json.loads((root / "image_tags.json").read_text())
    assert tags == {"2007_000063": ["chair", "dog"], "2007_000027": ["person"]}
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(root / "JPEGImages/2007_000063.jpg")
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000063")
    assert load_voc_layout(root, "train", VOC_CLASSES)[0]["image_labels"] == [8, 11]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_call_anything_are_refused_and_do_nothing(tmp_path, protocol):
    trace = tmp_path / "trace"
    for payload in (
        Hostile(Path.touch, trace),
        Hostile(eval, f"open({str(trace)!r}, 'w')"),
        Hostile(np.fromfile, str(TOOLS)),
    ):
        source = save_labels(tmp_path / "bad.npy", {"a": payload}, protocol)
        with pytest.raises(UsageError, match="bad.npy is refused: its pickle asks for"):
            read_label_file(source)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [{"a": one_hot(1, count=80)}, {"a": one_hot(1) * 0.5}, {"a": "cat"}, [1, 2]]
)
def test_label_files_with_other_content_are_refused(tmp_path, content):
    source = save_labels(tmp_path / "odd.npy", content)
    with pytest.raises(UsageError, match="odd.npy"):
        convert_image_labels(source, tmp_path / "tags.json", VOC_CLASSES)
    assert not (tmp_path / "tags.json").exists()


def test_numbers_become_the_names_of_voc_images(tmp_path):
    source = save_labels(tmp_path / "irn.npy", {2007000032: one_hot(0)})
    convert_image_labels(source, tmp_path / "tags.json", VOC_CLASSES)
    assert json.loads((tmp_path / "tags.json").read_text()) == {"2007_000032": ["aeroplane"]}


def test_files_that_are_no_label_files_are_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("labels")
    whole = save_labels(tmp_path / "whole.npy", {"a": one_hot(1)}).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-9])
    for name in ("plain", "text", "cut", "absent"):
        with pytest.raises(UsageError, match=f"{name}.npy"):
            read_label_file(tmp_path / f"{name}.npy")


def test_converter_command(tmp_path, run_tool, last_words, capsys):
    source = save_labels(tmp_path / "in.npy", {12: one_hot(79, count=80)})
    target = tmp_path / "image_tags.json"
    run_tool("convert_image_labels.py", source, target, "--classes", "coco")
    assert "labels of 1 images" in capsys.readouterr().out
    assert json.loads(target.read_text()) == {"12": ["toothbrush"]}
    status, sentence = last_words("convert_image_labels.py", source, target, "--classes", "voc")
    assert status == 1 and sentence.startswith("error: image 12 in")


def test_sbd_command(releases, run_tool, capsys):
    sbd, voc = releases
    run_tool("prepare_sbd.py", sbd, "--voc", voc, "--workers", 1)
    output = capsys.readouterr().out
    assert "4 masks (4 written, 0 kept), sha256 " in output and "train_aug.txt: 3 images" in output


@pytest.mark.parametrize("workers", [0, -2])
def test_masks_without_workers_are_refused(releases, last_words, workers):
    sbd, voc = releases
    status, sentence = last_words("prepare_sbd.py", sbd, "--voc", voc, "--workers", workers)
    assert status == 1 and sentence.startswith(f"error: --workers is {workers}; masks need")


@pytest.mark.parametrize(
    ("function", "command"),
    [
        ("coco_masks.prepare_coco", ("prepare_coco.py",)),
        ("sbd.prepare_sbd", ("prepare_sbd.py", "sbd")),
        (
            "image_labels.convert_image_labels",
            ("convert_image_labels.py", "a", "b", "--classes=voc"),
        ),
    ],
)
def test_interrupted_commands_print_no_traceback(last_words, monkeypatch, function, command):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dalnet.data.prepare.{function}", interrupt)
    assert last_words(*command) == (130, "error: interrupted")


def interrupts_ignored(_):
    """A mask that says whether Ctrl-C leaves the process that makes it alone."""
    return np.full((1, 1), signal.getsignal(signal.SIGINT) is signal.SIG_IGN, np.uint8)


def test_workers_leave_an_interrupt_to_their_parent(tmp_path):
    write_masks({tmp_path / "a.png": None}, interrupts_ignored, workers=1)
    assert np.array(Image.open(tmp_path / "a.png")).item() == 1


def test_coco_command_exits_with_one_sentence(tmp_path):
    command = [sys.executable, str(TOOLS / "prepare_coco.py"), "--root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: ") and "instances_train2014.json" in result.stderr


def test_failed_writing_leaves_nothing(tmp_path):
    target = tmp_path / "folder" / "file"
    with pytest.raises(RuntimeError), complete_or_absent(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    (tmp_path / "blocked").write_text("a file, not a folder")
    with (
        pytest.raises(UsageError, match="cannot write"),
        complete_or_absent(tmp_path / "blocked" / "file"),
    ):
        pass

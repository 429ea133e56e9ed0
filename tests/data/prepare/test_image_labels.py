# SPDX-License-Identifier: Apache-2.0
"""The community's label files, which are read without running what they name."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.cli import main
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.prepare.image_labels import convert_image_labels, read_label_file


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
    for name in tags:
        Image.new("RGB", (2, 2)).save(root / "JPEGImages" / f"{name}.jpg")
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
        Hostile(np.fromfile, __file__),
    ):
        source = save_labels(tmp_path / "bad.npy", {"a": payload}, protocol)
        with refused(source, "asks for"):
            read_label_file(source)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"a": one_hot(1, count=80)},
        {"a": one_hot(1, count=21)},
        {"a": one_hot(1) * 0.5},
        {"a": one_hot(1) * np.nan},
        {"a": "cat"},
        [1, 2],
    ],
)
def test_label_files_with_other_content_are_refused(tmp_path, content):
    source = save_labels(tmp_path / "odd.npy", content)
    with refused(source):
        convert_image_labels(source, tmp_path / "tags.json", VOC_CLASSES)
    assert not (tmp_path / "tags.json").exists()


def test_numbers_become_the_names_of_voc_images(tmp_path):
    source = save_labels(tmp_path / "irn.npy", {2007000032: one_hot(0)})
    convert_image_labels(source, tmp_path / "tags.json", VOC_CLASSES)
    assert json.loads((tmp_path / "tags.json").read_text()) == {"2007_000032": ["aeroplane"]}


@pytest.mark.parametrize(
    "key",
    [
        "2007_000032",
        "2007_000032.jpg",
        "JPEGImages/2007_000032.jpg",
        "C:\\VOC\\2007_000032.JPG",
        2007000032,
        np.int64(2007000032),
    ],
)
@pytest.mark.parametrize("form", ["array", "bool", "list", "row"])
def test_keys_and_vectors_of_other_repositories(tmp_path, key, form):
    vector = one_hot(0, 2)
    forms = {"array": vector, "bool": vector > 0, "list": vector.tolist(), "row": vector[None]}
    source = save_labels(tmp_path / "in.npy", {key: forms[form]})
    convert_image_labels(source, tmp_path / "tags.json", VOC_CLASSES)
    tags = json.loads((tmp_path / "tags.json").read_text())
    assert tags == {"2007_000032": ["aeroplane", "bird"]}


def test_names_of_ten_digits_stay_as_they_are(tmp_path):
    source = save_labels(
        tmp_path / "in.npy", {"2023010112": one_hot(0), "2023010113.jpg": one_hot(1)}
    )
    convert_image_labels(source, tmp_path / "t", VOC_CLASSES)
    assert [*json.loads((tmp_path / "t").read_text())] == ["2023010112", "2023010113"]


def test_names_with_dots_stay_whole_and_an_image_comes_once(tmp_path):
    content = {"a.b": one_hot(0), "a.jpg": one_hot(count=20), "32": one_hot(1)}
    convert_image_labels(save_labels(tmp_path / "in.npy", content), tmp_path / "t", VOC_CLASSES)
    tags = json.loads((tmp_path / "t").read_text())
    assert tags == {"a.b": ["aeroplane"], "a": [], "32": ["bicycle"]}
    twice = save_labels(tmp_path / "twice.npy", {"a": one_hot(0), "a.png": one_hot(0)})
    with refused(twice):
        convert_image_labels(twice, tmp_path / "t", VOC_CLASSES)


def test_files_that_are_no_label_files_are_refused(tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("labels")
    whole = save_labels(tmp_path / "whole.npy", {"a": one_hot(1)}).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-9])
    for name in ("plain", "text", "cut", "absent"):
        with refused(tmp_path / f"{name}.npy"):
            read_label_file(tmp_path / f"{name}.npy")


def test_converter_command(tmp_path, last_words, capsys):
    source = save_labels(tmp_path / "in.npy", {12: one_hot(79, count=80)})
    target = tmp_path / "image_tags.json"
    command = ["labels", "--input", str(source), "--output", str(target), "--classes"]
    main(["prepare", *command, "coco"])
    assert "labels of 1 images" in capsys.readouterr().out
    assert json.loads(target.read_text()) == {"12": ["toothbrush"]}
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(80)))
    main(["prepare", *command, str(tmp_path / "classes.txt")])
    assert json.loads(target.read_text()) == {"12": ["class 79"]}
    status, sentence = last_words(*command, "voc")
    assert status == 1 and sentence.startswith(f"error: {source}: image 12")

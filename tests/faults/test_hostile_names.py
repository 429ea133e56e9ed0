# SPDX-License-Identifier: Apache-2.0
"""Names of classes and files neither inject HTML nor break a file nor lead out of a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers import refused
from PIL import Image

from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.image_io import write_mask
from dalnet.evaluation.results import read_results
from dalnet.labeling.check import check_images
from dalnet.labeling.check_page import write_page
from dalnet.labeling.formats import WRITERS, LabeledImage
from dalnet.labeling.label import TaggedImage, write_formats
from dalnet.labeling.manifest import Finished, Manifest
from dalnet.prediction.files import ResultPaths, find_inputs
from dalnet.report.charts import draw_chart

from .hostile_documents import ALIASES, DEEP, LAUGHS, OUTSIDE, RUNS_CODE, cvat
from .hostile_images import fifo, png
from .hostile_weights import SYSTEM, array_of_objects, pickled, tensors_that

pytestmark = pytest.mark.faults("hostile names")

HTML = "<img src=x onerror=alert(1)>"
NAMES = [HTML, "'\"&;--", "../../up", "a/b\\c", "${jndi}", "=1+1", "x" * 200, "K\u00e4fer \u72ac"]
FILES = [HTML, "a\nb", "a\tb", "'\"&;", "x" * 251, os.fsdecode(b"\xff\xfe"), "\x1b[31m", " "]


def draw(path, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), np.uint8)
    Image.fromarray(values).save(path, "JPEG")


def is_text(file):
    """Return whether JSON and XML can hold a name."""
    return file.isascii() and "\x1b" not in file


def everything_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file", FILES)
def test_page_of_a_check(tmp_path, file):
    images = tmp_path / "images" / "a<b>"
    images.mkdir(parents=True)
    draw(images / f"{file}.jpg")
    findings = check_images(tmp_path / "images", None)
    write_page(findings, tmp_path / "page.html", HTML, HTML)
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in page and "a<b>" not in page


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", WRITERS)
def test_label_formats(tmp_path, name, form):
    label_map = np.zeros((12, 16), np.uint8)
    label_map[2:9, 3:12] = 1
    files = [f"{file}/{number}.jpg" for number, file in enumerate(FILES) if is_text(file)]
    images = [LabeledImage(file, label_map) for file in files]
    WRITERS[form](iter(images), ["background", name], tmp_path / "output")
    written = everything_in(tmp_path)
    assert written == everything_in(tmp_path / "output")
    for path in written:
        if path.suffix == ".json":
            text = json.dumps(json.loads(path.read_bytes()), ensure_ascii=False)
            assert json.dumps(name, ensure_ascii=False)[1:-1] in text or "brush" in path.name
        elif path.suffix == ".xml":
            values = [v for node in ElementTree.parse(path).iter() for v in node.attrib.values()]
            texts = [node.text for node in ElementTree.parse(path).iter()]
            assert name in {*values, *texts}
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())["names"] == {0: name}


@pytest.mark.parametrize("file", [file for file in FILES if not is_text(file)])
def test_names_that_label_formats_cannot_hold(tmp_path, file):
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / f"{file}.png", np.zeros((12, 16), np.uint8))
    images = [TaggedImage(tmp_path, f"{file}.jpg", [])]
    for form in WRITERS.keys() - {"yolo"}:
        with refused(f"{file}.jpg"):
            write_formats(tmp_path, images, ["background", "cat"], [form])
    write_formats(tmp_path, images, ["background", "cat"], ["yolo"])
    manifest = Manifest(tmp_path / "new", {})
    manifest.add(Finished(f"{file}.jpg", "", f"{file}.png", 1.0, ""))
    manifest.close()
    assert Manifest(tmp_path / "new", {}).finished == manifest.finished


@pytest.mark.parametrize("file", FILES)
def test_results_of_predictions_stay_in_their_folder(tmp_path, file):
    (tmp_path / "in").mkdir()
    draw(tmp_path / "in" / f"{file}.jpg")
    inputs = find_inputs([str(tmp_path / "in")], tmp_path / "out")
    paths = ResultPaths(tmp_path / "out", inputs, ["background", *NAMES])
    found = [paths.overlay(inputs[0]), paths.mask(inputs[0])]
    found += [paths.cam(inputs[0], name) for name in NAMES]
    assert len({*found}) == len(found)
    assert all(path.resolve().parent == tmp_path / "out" for path in found)


def test_charts_show_names_as_text():
    chart = draw_chart(HTML, {f"{HTML}-->": {1.0: 2.0, 2.0: 3.0}}, HTML, {HTML: (1.0, 2.0)})
    assert "<img" not in chart and "alert" in chart


@pytest.mark.parametrize("name", NAMES)
def test_names_in_lists_of_images(tmp_path, name):
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    draw(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "image_tags.json").write_text(json.dumps({"a": [name]}))
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (record,) = load_voc_layout(tmp_path, "train", [name])
    assert record["image_labels"] == [0]
    assert Path(record["file_name"]).resolve().is_relative_to(tmp_path)


BUNDLE = {**SYSTEM, "config": RUNS_CODE, "versions": {}}
# Arguments of a command, the file that they name as FILE, and its content.
COMMANDS = [
    ("predict FILE --model none.pth --output out", "a.png", png(60_000, 60_000)),
    ("info FILE", "a.pth", pickled),
    ("info FILE", "b.safetensors", tensors_that({"__metadata__": {"dalnet": json.dumps(BUNDLE)}})),
    ("check --images . --tags FILE --output out", "tags.xml", cvat(LAUGHS, "&a9;")),
    ("check --images . --tags FILE --output out", "tags.json", DEEP),
    ("check --images . --tags FILE --output out", "tags.xml", cvat(OUTSIDE, "&x;")),
    ("check --images . --tags FILE --output out", "tags.csv", fifo),
    ("train --config FILE", "c.yaml", RUNS_CODE),
    ("train --config FILE", "c.yaml", ALIASES),
    ("prepare labels --input FILE --output out.json --classes voc", "l.npy", array_of_objects),
    ("sweep FILE --output out", "s.yaml", DEEP),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "file", "content"), COMMANDS)
def test_commands_answer_by_a_sentence(tmp_path, words, file, content):
    path = tmp_path / file
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    draw(tmp_path / "image.jpg")
    before = {*tmp_path.rglob("*")}
    command = [sys.executable, "-m", "dalnet", *words.replace("FILE", file).split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].count("error: ") == 1
    assert not any(path.name == "ran" for path in {*tmp_path.rglob("*")} - before)


def test_results_of_another_place_are_not_believed(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"split": HTML, "measurements": [{"source": HTML}]}))
    with refused(path):
        read_results(path)

# SPDX-License-Identifier: Apache-2.0
"""Label maps of tagged images, with a predictor whose answers are known, and with a network."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.cli import main
from dalnet.errors import UsageError
from dalnet.labeling.label import TaggedImage, find_doubt, label_images, write_formats
from dalnet.prediction.prediction import Prediction

NAMES = ("background", "cat", "dog")


class KnownPredictor:
    """Labels the left half of an image with its first tag."""

    class_names = NAMES

    def __init__(self):
        self.calls = []

    def label(self, image, image_classes, source):
        self.calls.append(image.name)
        if image.name == "broken.jpg":
            raise UsageError("it cannot be read", image)
        pixels = np.array(Image.open(image))
        scores = np.zeros((3, *pixels.shape[:2]), np.float32)
        scores[0] = 1
        if image_classes:
            value = NAMES.index(image_classes[0])
            scores[:, :, : pixels.shape[1] // 2] = 0
            scores[value, :, : pixels.shape[1] // 2] = 0.9
        return Prediction(pixels, scores.argmax(0).astype(np.uint8), scores, {}, NAMES)


@pytest.fixture
def images(tmp_path):
    made = []
    for file, tags in (("a.jpg", ["cat"]), ("sub/b.jpg", ["dog", "cat"]), ("c.png", [])):
        path = tmp_path / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(path)
        made.append(TaggedImage(path, file, tags))
    return made


def label(images, output, **options):
    predictor = KnownPredictor()
    count = label_images(predictor, images, output, {"weights": "abc"}, **options)
    assert count == len([name for name in predictor.calls if name != "broken.jpg"])
    return predictor.calls


def test_label_maps_lie_beside_links_of_the_images(images, tmp_path):
    output = tmp_path / "out"
    label(images, output, overlays=True)
    mask = Image.open(output / "masks/sub/b.png")
    assert mask.mode == "P" and mask.size == (40, 20)
    assert (np.array(mask)[:, :20] == 2).all() and (np.array(mask)[:, 20:] == 0).all()
    assert not np.array(Image.open(output / "masks/c.png")).any()
    assert (output / "images/sub/b.jpg").samefile(images[1].path)
    confidence = np.array(Image.open(output / "confidence/a.png"))
    assert (confidence[:, :20] == 230).all() and (confidence[:, 20:] == 255).all()
    assert (output / "overlays/a.jpg").exists()
    meta = json.loads((output / "dataset_meta.json").read_text())
    assert meta["label_map"] == {"0": "background", "1": "cat", "2": "dog"}
    with (output / "uncertain.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"] == "sub/b.jpg" and "cat" in row["reason"]


def test_finished_images_are_not_labeled_again(images, tmp_path):
    output = tmp_path / "out"
    assert label(images[:2], output) == ["a.jpg", "b.jpg"]
    assert label(images, output) == ["c.png"]
    images[0] = TaggedImage(images[0].path, "a.jpg", ["dog"])
    assert label(images, output) == ["a.jpg"]
    assert (np.array(Image.open(output / "masks/a.png"))[:, :20] == 2).all()


def test_an_image_of_the_same_stem_that_comes_later_has_a_label_map_of_its_own(images, tmp_path):
    output, image = tmp_path / "out", images[0]
    label(images, output)
    other = TaggedImage(image.path.with_suffix(".png"), "a.png", ["dog"])
    Image.fromarray(np.full((10, 20, 3), 90, np.uint8)).save(other.path)
    assert label([*images, other], output) == ["a.jpg", "a.png"]
    assert not (output / "masks/a.png").exists()
    sizes = [Image.open(output / f"masks/a.{kind}.png").size for kind in ("jpg", "png")]
    assert sizes == [(40, 20), (20, 10)]
    assert label([*images, other], output) == []
    assert label(images, output) == ["a.jpg"]  # a.png again, as in the beginning


def test_what_an_image_lacks_is_written_later(images, tmp_path):
    output = tmp_path / "out"
    label(images, output)
    (output / "masks/a.png").unlink()
    assert label(images, output) == ["a.jpg"]
    corrected = np.full((20, 40), 2, np.uint8)
    corrected[0] = 255
    Image.fromarray(corrected).save(output / "masks/a.png")
    (output / "images/c.png").unlink()
    assert label(images, output, overlays=True) == []
    assert (output / "images/c.png").samefile(images[2].path)
    assert (np.array(Image.open(output / "masks/a.png")) == corrected).all()
    colors = np.array(Image.open(output / "overlays/a.jpg")).astype(int)
    plain = np.array(Image.open(output / "overlays/c.jpg")).astype(int)
    assert abs(colors[15, 35] - plain[15, 35]).max() > 20, "of the label map that lies there"


def test_a_replaced_image_is_linked_anew(images, tmp_path):
    output, path = tmp_path / "out", images[0].path
    label(images, output)
    Image.fromarray(np.full((30, 60, 3), 90, np.uint8)).save(tmp_path / "new.jpg")
    (tmp_path / "new.jpg").replace(path)
    assert label(images, output) == ["a.jpg"]
    assert (output / "images/a.jpg").samefile(path)
    assert Image.open(output / "masks/a.png").size == (60, 30)


@pytest.mark.parametrize("wrong", [np.full((9, 9), 1), np.full((20, 40), 7)])
def test_a_correction_that_does_not_fit_has_no_overlay(images, tmp_path, caplog, wrong):
    output = tmp_path / "out"
    label(images, output)
    Image.fromarray(wrong.astype(np.uint8)).save(output / "masks/a.png")
    assert label(images, output, overlays=True) == []
    assert "no overlay of a.jpg" in caplog.text
    assert sorted(path.name for path in (output / "overlays").rglob("*.jpg")) == ["b.jpg", "c.jpg"]


def test_an_image_whose_label_map_is_gone_is_not_finished(images, tmp_path, monkeypatch):
    output = tmp_path / "out"
    label(images, output)
    (output / "masks/sub/b.png").unlink()

    def fail(*_):
        raise UsageError("memory is full")

    monkeypatch.setattr(KnownPredictor, "label", fail)
    label_images(KnownPredictor(), images, output, {"weights": "abc"}, overlays=True)
    assert "sub/b" not in (output / "uncertain.csv").read_text()


def test_a_passing_error_leaves_the_label_map(images, tmp_path, monkeypatch):
    output, path = tmp_path / "out", images[0].path
    label(images, output)
    os.utime(path, ns=(1, 1))

    def fail(*_):
        raise UsageError("memory is full")

    with monkeypatch.context() as patch:
        patch.setattr(KnownPredictor, "label", fail)
        label_images(KnownPredictor(), images, output, {"weights": "abc"})
    assert (output / "masks/a.png").is_file()
    assert label(images, output) == ["a.jpg"]


@pytest.mark.parametrize("settings", ["abc", "other"])
def test_nothing_is_left_of_an_image_that_cannot_be_read_any_more(images, tmp_path, settings):
    output = tmp_path / "out"
    label(images, output, overlays=True)
    images[0].path.unlink()
    images[0].path.symlink_to(tmp_path / "nothing")
    broken = TaggedImage(images[0].path.rename(tmp_path / "broken.jpg"), "a.jpg", ["cat"])
    label_images(
        KnownPredictor(), [broken, *images[1:]], output, {"weights": settings}, overwrite=True
    )
    for name in ("masks/a.png", "confidence/a.png", "overlays/a.jpg"):
        assert not (output / name).exists()
    write_formats(output, [broken, *images[1:]], NAMES, ["coco"])
    content = json.loads((output / "annotations/instances_default.json").read_text())
    assert [one["file_name"] for one in content["images"]] == ["sub/b.jpg", "c.png"]


def test_pixels_that_a_correction_leaves_out_are_exported_as_background(images, tmp_path):
    output = tmp_path / "out"
    label(images, output)
    mask = np.array(Image.open(output / "masks/a.png"))
    mask[:10] = 255
    Image.fromarray(mask).save(output / "masks/a.png")
    write_formats(output, images, NAMES, ["coco", "yolo", "cvat", "label-studio"])
    content = json.loads((output / "annotations/instances_default.json").read_text())
    assert [one["category_id"] for one in content["annotations"]] == [1, 2]
    assert content["annotations"][0]["area"] == 200


def test_images_that_cannot_be_read_are_left_out(images, tmp_path, caplog):
    broken = TaggedImage(tmp_path / "images/broken.jpg", "broken.jpg", ["cat"])
    broken.path.touch()
    label([*images, broken], tmp_path / "out")
    assert "broken.jpg" in caplog.text
    with pytest.raises(UsageError):
        label([broken], tmp_path / "other")


def test_tag_that_the_model_does_not_know_is_refused(images, tmp_path):
    images[1] = TaggedImage(images[1].path, "sub/b.jpg", ["cow"])
    with refused("sub/b.jpg", "cow"):
        label(images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_forms_are_written_from_the_label_maps(images, tmp_path):
    label(images, tmp_path / "out")
    write_formats(tmp_path / "out", images, NAMES, ["coco", "yolo"])
    content = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    assert [one["file_name"] for one in content["images"]] == ["a.jpg", "sub/b.jpg", "c.png"]
    assert [one["category_id"] for one in content["annotations"]] == [1, 2]
    assert (tmp_path / "out/labels/sub/b.txt").read_text().startswith("1 ")
    with refused("format", "bmp"):
        write_formats(tmp_path / "out", images, NAMES, ["bmp"])


@pytest.mark.parametrize(
    ("value", "tags", "confidence", "word"),
    [
        (1, ["cat"], 0.99, "whole image"),
        (0, ["dog"], 0.99, "dog"),
        (0, [], 0.5, "0.50"),
        (0, [], 0.9, ""),
    ],
)
def test_reasons_for_doubt(value, tags, confidence, word):
    reason = find_doubt(np.full((9, 9), value), NAMES, tags, confidence)
    assert word in reason and bool(reason) == bool(word)


def test_images_without_a_pixel_of_a_tag_come_first(images, tmp_path):
    images[0] = TaggedImage(images[0].path, "a.jpg", ["cat", "dog"])
    output, predictor = tmp_path / "out", KnownPredictor()
    predictor.label = lambda image, tags, source: doubtful_prediction(image)
    label_images(predictor, images[:2], output, {})
    with (output / "uncertain.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == ["a.jpg", "sub/b.jpg"]
    assert "hardly" in rows[0]["reason"] and "unsure" in rows[1]["reason"]
    assert rows[0]["confidence"] > rows[1]["confidence"]


def doubtful_prediction(image):
    """Confident and without a dog for a.jpg; unsure, with cat and dog, for the other."""
    labels = np.zeros((20, 40), np.uint8)
    labels[:, 20:] = 1
    if image.name == "a.jpg":
        confidence = 0.99
    else:
        labels[:, :10], confidence = 2, 0.5
    scores = np.full((3, 20, 40), confidence, np.float32)
    return Prediction(np.zeros((20, 40, 3), np.uint8), labels, scores, {}, NAMES)


def test_specks_are_no_regions():
    specks = np.zeros((200, 200), np.uint8)
    specks[::4, ::4] = 1
    assert find_doubt(specks, NAMES, ["cat"], 0.9) == ""


def test_many_regions_are_a_reason_for_doubt():
    board = np.zeros((20, 20), np.uint8)
    board[::2, ::2] = 1
    assert "100 regions" in find_doubt(board, NAMES, ["cat"], 0.9)


@pytest.mark.parametrize("source", ["sem_seg", "cam"])
def test_command_gives_only_the_tags_of_an_image(voc_model, tmp_path, capsys, source):
    folder = tmp_path / "own"
    folder.mkdir()
    for number, name in enumerate(("a", "b")):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(noise).save(folder / f"{name}.png", exif=exif)
    (tmp_path / "tags.csv").write_text("file,tags\na,dog;cat\nb,\n")
    argv = ["label", "--weights", voc_model.weights, "--images", folder, "--source", source]
    argv += ["--tags", tmp_path / "tags.csv", "--output", tmp_path / "out", "--protocol", "ss"]
    main([str(word) for word in argv])
    out = capsys.readouterr().out
    assert "1 images without known tags" in out and "1 of 1 images labeled" in out
    assert "1 of 1 images are turned by EXIF" in out
    names = json.loads((tmp_path / "out/dataset_meta.json").read_text())["label_map"]
    found = {names[str(v)] for v in np.unique(np.array(Image.open(tmp_path / "out/masks/a.png")))}
    assert (
        found <= {"background", "dog", "cat"} and Path(tmp_path / "out/confidence/a.png").exists()
    )
    main([str(word) for word in argv])
    assert "0 of 1" in capsys.readouterr().out

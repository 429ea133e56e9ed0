# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary evaluation by a system that knows the names of colors."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from helpers import refused
from PIL import Image

from dalnet.cli import main
from dalnet.config import System, register_system
from dalnet.config.systems import _systems
from dalnet.data.datasets.catalog import register
from dalnet.evaluation import zero_shot_run
from dalnet.evaluation.zero_shot import (
    PRESETS,
    Preset,
    ZeroShotSegmenter,
    class_names,
    parse_preset,
    resize_short_side,
    slide,
)
from dalnet.evaluation.zero_shot_run import evaluate_zero_shot, measure
from dalnet.modeling.boxes import window_boxes
from dalnet.modeling.meta_arch import OpenVocabularySegmentor, Source

COLORS = {"red": (255, 0, 0), "scarlet": (230, 20, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorSegmentor(OpenVocabularySegmentor):
    """Compares the colors of pixels with those that names mean."""

    sources = {"sem_seg": Source("segmentation", "probabilities")}
    name_tokens = 10

    def __init__(self, cfg):
        super().__init__(**self.shared_arguments(cfg))

    def encode(self, images):
        return {"images": images}

    def embed_texts(self, names, templates):
        return F.normalize(torch.tensor([COLORS.get(n, (9, 9, 9)) for n in names]).float(), dim=1)

    def embed_classes(self, names):
        return self.embed_texts(names, ())

    def similarities(self, images, texts):
        pixels = F.normalize(images * self.pixel_std + self.pixel_mean, dim=1)
        return torch.einsum("nchw,kc->nkhw", pixels, texts)

    def maps(self, source, features):
        scores = self.similarities(features["images"], self.class_texts())
        return torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1)

    def losses(self, batch):
        raise NotImplementedError


@pytest.fixture
def color_cfg(tiny_cfg, monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "ColorSegmentor", ColorSegmentor)
    monkeypatch.setitem(_systems, "ColorSegmentor", None)
    register_system(System("ColorSegmentor", lambda cfg: None))
    tiny_cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "ColorSegmentor"])
    return tiny_cfg


@pytest.fixture
def model(color_cfg):
    return ColorSegmentor(color_cfg).eval()


def picture(height=20, width=32):
    """Red, green and blue from left to right, and gray at the end: their places."""
    image = np.full((height, width, 3), 128, np.uint8)
    for i, name in enumerate(("red", "green", "blue")):
        image[:, i * width // 4 : (i + 1) * width // 4] = COLORS[name]
    return image


SMALL = {"short_side": 20, "crop": 12, "stride": 8}


def test_each_pixel_gets_its_class(model):
    preset = Preset("t", background=0.9, **SMALL)
    labels = ZeroShotSegmenter(model, preset, ["background", "red", "green", "blue"])(picture())
    assert labels.dtype == np.uint8
    assert [labels[10, x] for x in (4, 12, 20, 28)] == [1, 2, 3, 0]
    without = ZeroShotSegmenter(model, preset, ["blue", "green", "red"])(picture())
    assert [without[10, x] for x in (4, 12, 20)] == [2, 1, 0]


def test_the_background_of_the_preset_counts(model):
    preset = Preset("t", background=0.5, **SMALL)
    labels = ZeroShotSegmenter(model, preset, ["background", "red", "green", "blue"])(picture())
    assert labels[10, 28] != 0  # gray has a cosine of 0.58 with each


def test_several_names_a_class_and_a_threshold(model):
    preset = Preset("t", by_names=True, scale=40.0, threshold=0.4, **SMALL)
    segmenter = ZeroShotSegmenter(model, preset, ["background", "red", "green"])
    # As the data set of this name would be: red has two names, the background one without color.
    segmenter._owners = torch.tensor([0, 1, 1, 2])
    segmenter._texts = model.embed_texts(["gray", "red", "scarlet", "green"], ())
    labels = segmenter(picture())
    # Blue is like nothing: its probabilities are below the threshold.
    assert [labels[10, x] for x in (4, 12, 20, 28)] == [1, 2, 0, 0]


def transcribed(model, image, texts, owners, scale, threshold):
    """SCLIP's steps on one image that is one window, all names at once."""
    images = model.normalize(torch.from_numpy(image).permute(2, 0, 1).float()[None])
    logits = scale * model.similarities(images, texts)[0]
    probabilities = logits.softmax(dim=0)
    classes = torch.stack(
        [probabilities[owners == c].amax(dim=0) for c in range(int(owners.max()) + 1)]
    )
    labels = classes.argmax(dim=0)
    labels[classes.amax(dim=0) < threshold] = 0
    return labels.numpy()


def test_probabilities_over_many_names_as_transcribed(model, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("dalnet.evaluation.zero_shot._CLASSES_AT_A_TIME", 3)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    texts = F.normalize(torch.randn(11, 3), dim=1)
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6])
    preset = Preset("t", 16, 16, 8, by_names=True, scale=10.0, threshold=0.5)
    segmenter = ZeroShotSegmenter(model, preset, ["background", *"abcdef"])
    segmenter._owners, segmenter._texts = owners, texts
    expected = transcribed(model, image, texts, owners, 10.0, 0.5)
    assert 0 < (expected == 0).mean() < 1
    assert np.array_equal(segmenter(image), expected)


def test_windows_are_averaged():
    images = torch.arange(30.0).view(1, 1, 5, 6).expand(1, 3, 5, 6)
    seen = []

    def scores_of(window):
        seen.append(tuple(window.shape[2:]))
        return window[0, :1] + len(seen)

    result = slide(scores_of, images, 4, 2)
    expected, count = torch.zeros(5, 6), torch.zeros(5, 6)
    for number, (y1, y2, x1, x2) in enumerate(window_boxes(5, 6, 4, 2), start=1):
        expected[y1:y2, x1:x2] += images[0, 0, y1:y2, x1:x2] + number
        count[y1:y2, x1:x2] += 1
    assert set(seen) == {(4, 4)}
    torch.testing.assert_close(result[0], expected / count)


@pytest.mark.parametrize(
    ("size", "seen"),
    [((375, 500), (448, 597)), ((500, 333), (673, 448)), ((100, 1000), (205, 2048))],
)
def test_sizes_of_mmsegmentation(size, seen):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized = resize_short_side(image, 448)
    assert resized.shape[:2] == seen
    assert np.array_equal(resized, cv2.resize(image, seen[::-1]))


def test_presets():
    tcl, sclip = PRESETS["tcl"], PRESETS["sclip"]
    assert (tcl.short_side, tcl.crop, tcl.stride, tcl.background) == (448, 448, 224, 0.4)
    assert (sclip.short_side, sclip.crop, sclip.stride) == (336, 224, 112)
    assert (sclip.scale, sclip.threshold) == (40, 0.1)
    assert parse_preset("sclip", "cityscapes").short_side == 560
    changed = parse_preset("tcl:short_side=96,crop=240,background=0.5")
    assert (changed.short_side, changed.crop, changed.stride) == (96, 240, 224)
    assert changed.background == 0.5
    assert changed.name == "tcl:short_side=96,crop=240,background=0.5"


@pytest.mark.parametrize(
    "text",
    [
        *("tlc", "", "tcl:side=3", "tcl:crop", "tcl:crop=x", "tcl:crop=0", "tcl:name=x"),
        *("tcl:background=nan", "tcl:background=1.5", "sclip:threshold=-0.1", "sclip:threshold=2"),
        *("sclip:scale=inf", "sclip:scale=-1", "tcl:stride=-5", "tcl:crop=48", "sclip:crop=96"),
    ],
)
def test_unknown_presets(text):
    with refused("preset"):
        parse_preset(text)


def test_names_of_classes():
    classes = ["background", "boat", "person", "cat"]
    assert class_names("voc21", classes, PRESETS["tcl"]) == [[name] for name in classes]
    names = class_names("voc21", classes, PRESETS["sclip"])
    assert [len(group) for group in names] == [26, 1, 7, 1]
    assert names[1] == ["ship"]
    assert class_names("ade20k", ["pool table"], PRESETS["sclip"]) == [["pooltable"]]
    assert class_names("context60", ["background"], PRESETS["sclip"]) == [["background"]]


def test_two_ways_to_count():
    # F14's kind: class 2 is shown but never found, class 3 only predicted, class 4 neither.
    matrix = np.zeros((5, 5), np.int64)
    matrix[0, :2] = 8, 2
    matrix[1, 1] = 10
    matrix[2, 3] = 7
    found = measure(matrix, list("abcde"))
    ious = [8 / 10, 10 / 12, 0.0]
    assert found["miou_detectron2"] == pytest.approx(100 * sum(ious) / 3)
    assert found["miou_mmseg"] == pytest.approx(100 * sum(ious) / 4)
    assert found["iou"]["d"] == 0
    assert found["iou"]["e"] is None
    assert found["pixel_accuracy"] == pytest.approx(100 * 18 / 27)


@pytest.fixture
def ade_of_colors(tmp_path, monkeypatch):
    """ADE20K's layout with four pictures, of which the first three thirds are its first classes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for folder in ("images", "annotations"):
        (tmp_path / "ADEChallengeData2016" / folder / "validation").mkdir(parents=True)
    mask = np.repeat(np.array([1, 2, 3, 0], np.uint8), 8)[None].repeat(20, axis=0)
    for number in range(4):
        place = tmp_path / "ADEChallengeData2016/images/validation" / f"{number}.jpg"
        Image.fromarray(picture()).save(place, quality=100, subsampling=0)
        place = tmp_path / "ADEChallengeData2016/annotations/validation" / f"{number}.png"
        Image.fromarray(mask).save(place)
    for color, name in zip(("red", "green", "blue"), ("wall", "building", "sky"), strict=True):
        monkeypatch.setitem(COLORS, name, COLORS[color])
    return tmp_path


def test_a_data_set_from_beginning_to_end(model, ade_of_colors):
    result = evaluate_zero_shot(model, "ade20k", "tcl:short_side=20,crop=20,stride=10", limit=3)
    assert result["images"] == 3
    assert result["preset"].startswith("tcl:")
    assert result["preset_settings"]["crop"] == 20
    assert result["miou_mmseg"] > 85
    assert set(result["iou"]) >= {"wall", "building", "sky"}
    matrix = np.array(result["confusion"])
    assert matrix.sum() == 3 * 20 * 24  # what is no class is not counted


def test_the_command(color_cfg, ade_of_colors, tmp_path, capsys):
    config = tmp_path / "colors.yaml"
    color_cfg.MODEL.WEIGHTS = ""
    config.write_text(color_cfg.dump())
    command = ["zero-shot", "--config", str(config), "--output", str(tmp_path / "out"), "--data"]
    main([*command, "ade20k", "--preset", "sclip:short_side=20,crop=20,stride=20"])
    text = capsys.readouterr().out + (tmp_path / "out" / "log.txt").read_text()
    assert "sclip:short_side=20,crop=20,stride=20" in text
    (written,) = (tmp_path / "out").glob("zero_shot_*.json")
    result = json.loads(written.read_text())
    assert result["dataset"] == "ade20k"
    assert result["weights_sha256"] is None
    with pytest.raises(SystemExit):
        main([*command, "voc22"])
    assert "voc21" in capsys.readouterr().err


def test_some_images_are_spread_over_the_whole_data_set(model, ade_of_colors, monkeypatch):
    name = f"{zero_shot_run.PREFIX}ade20k"
    first, *_ = DatasetCatalog.get(name)
    records = [{**first, "place": number} for number in range(10)]
    monkeypatch.setitem(DatasetCatalog.data, name, lambda: records)
    read = []
    note = lambda some: read.extend(record["place"] for record in some)  # noqa: E731
    monkeypatch.setattr(zero_shot_run, "check_masks", note)
    preset = "tcl:short_side=20,crop=20,stride=10"
    evaluate_zero_shot(model, "ade20k", preset, limit=6)
    assert read == [0, 1, 3, 5, 6, 8]
    del first["sem_seg_file_name"], records[3]["sem_seg_file_name"]
    with refused("ade20k", "masks"):
        evaluate_zero_shot(model, "ade20k", preset)


def test_more_classes_than_a_label_map_holds_are_refused(model, ade_of_colors):
    """In 8 bits the 256th class would read as ignored, and the next ones as the first classes."""
    (first, *_) = DatasetCatalog.get(f"{zero_shot_run.PREFIX}ade20k")
    for count in (255, 256):
        register(f"with_{count}", lambda: [first], [f"class {n}" for n in range(count - 1)])
    evaluate_zero_shot(model, "with_255", "tcl:short_side=20,crop=20,stride=10")
    with refused("with_256", "256 classes"):
        evaluate_zero_shot(model, "with_256", "tcl:short_side=20,crop=20,stride=10")


def test_a_closed_system_is_refused(voc_model):
    from detectron2.modeling import build_model

    with refused("model", "dalnet evaluate"):
        evaluate_zero_shot(build_model(voc_model.cfg), "voc21", "tcl")


@pytest.mark.parametrize(("dataset", "where"), [("voc22", "dataset"), ("ade20k", "ADEChallenge")])
def test_data_sets_that_are_not_there(model, tmp_path, monkeypatch, dataset, where):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with refused(where):
        evaluate_zero_shot(model, dataset, "tcl")

# SPDX-License-Identifier: Apache-2.0
"""One image as an evaluation sees it, from nothing but a checkpoint; systems without head."""

import logging
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from helpers import refused
from PIL import Image

from dalnet.checkpoint import Checkpointer, CheckpointInfo
from dalnet.config import System, new_config, systems
from dalnet.errors import UsageError
from dalnet.modeling.meta_arch.segmentor import Source, WeakSegmentor
from dalnet.prediction import Predictor

MULTI_SCALE = ("TEST.MULTI_SCALE.ENABLED", True, "TEST.MULTI_SCALE.SCALES", (1.0, 0.5))


@pytest.mark.parametrize("crf", [False, True])
def test_same_result_as_the_evaluation(toy_checkpoint, make_image, crf):
    predictor = Predictor(
        toy_checkpoint, opts=[*MULTI_SCALE, "TEST.CRF.ENABLED", crf, "TEST.CRF.ITERS", 2]
    )
    image, names = make_image(50, 41), predictor.class_names
    test = predictor.cfg.INPUT
    resized = T.ResizeShortestEdge(test.MIN_SIZE_TEST, test.MAX_SIZE_TEST).get_transform(image)
    pixels = torch.from_numpy(resized.apply_image(image).transpose(2, 0, 1).copy())
    assert pixels.shape[-1] == 32
    labels = torch.zeros(10).index_fill(0, torch.tensor([0, 2]), 1)
    record = {"image": pixels, "height": 50, "width": 41, "image_labels": labels}
    expected = predictor._model([record])[0]

    result = predictor(image, [names[3], names[1]])
    np.testing.assert_allclose(result.scores, expected["sem_seg"].numpy(), atol=1e-6)
    assert result.labels.dtype == np.uint8 and result.labels.shape == (50, 41)
    np.testing.assert_array_equal(result.labels, expected["sem_seg"].argmax(0).numpy())
    assert len(np.unique(result.labels)) > 1
    assert list(result.cams) == [names[3], names[1]]
    for label in (3, 1):
        cam = expected["cam"][label - 1].numpy()
        np.testing.assert_allclose(result.cams[names[label]], cam, atol=1e-6)


def test_a_checkpoint_alone_is_enough(toy_checkpoint, make_image, tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.move(toy_checkpoint, folder / "model_final.pth")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))

    def refuse(*args, **kwargs):
        raise AssertionError(f"asked for {args}")

    for owner, name in (
        *((socket.socket, "connect"), (socket, "getaddrinfo")),
        *((DatasetCatalog, "get"), (MetadataCatalog, "get")),
    ):
        monkeypatch.setattr(owner, name, refuse)
    for model in ("model_final.pth", folder):
        predictor = Predictor(model)
        assert predictor.class_names[:2] == ("background", "goldfish")
        assert predictor(make_image(40, 40)).labels.any()
    assert [path.name for path in folder.iterdir()] == ["model_final.pth"]


def test_paths_pictures_and_arrays_are_images(toy_checkpoint, make_image, tmp_path):
    predictor, image = Predictor(toy_checkpoint), make_image(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned = Image.fromarray(np.rot90(image).copy())
    turned.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as picture:
        results = [predictor(x) for x in (image, tmp_path / "x.png", picture)]
    for result in results:
        np.testing.assert_array_equal(result.image, image)
        np.testing.assert_array_equal(result.labels, results[0].labels)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_picture_is_seen_as_its_file_is(toy_checkpoint, make_image, tmp_path, mode, suffix):
    predictor, picture = Predictor(toy_checkpoint), Image.fromarray(make_image(40, 60))
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture, path = picture.convert(mode), tmp_path / f"x.{suffix}"
    if (suffix, mode) in (("png", "CMYK"), ("tif", "LA")) or suffix == "webp":
        picture = picture.convert("RGBA" if "A" in mode else "RGB")
    picture.save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(predictor(picture).image, predictor(path).image)
    if "A" in mode:
        # Transparent at the top: white.
        assert predictor(picture).image[0].min() > 250


def test_classes_of_another_name_or_order_are_refused(toy_checkpoint, tiny_cfg, tmp_path):
    names = list(Predictor(toy_checkpoint).class_names)
    for changed in ([*names[:-1], "sun"], [names[0], names[2], names[1], *names[3:]]):
        tiny_cfg.MODEL.CLASS_NAMES, tiny_cfg.MODEL.PROMPT_NAMES = changed, changed[1:]
        config = tmp_path / "config.yaml"
        config.write_text(tiny_cfg.dump())
        differing = next(one for one, other in zip(changed, names, strict=True) if one != other)
        with refused("", differing, "model_final.pth"):
            Predictor(toy_checkpoint, config=str(config))


def test_protocol_and_found_classes(toy_checkpoint, make_image):
    image, single = make_image(40, 40), Predictor(toy_checkpoint)
    result = single(image)
    for changed in ({"multi_scale": True}, {"flip": True}, {"crf": True}):
        assert not np.allclose(result.scores, Predictor(toy_checkpoint, **changed)(image).scores)
    found = [single.class_names[i] for i in np.unique(result.labels) if i]
    assert found and list(result.cams) == found
    assert single(image, ()).cams == {}
    assert list(single(image, ["moon", "leaf", "moon"]).cams) == ["moon", "leaf"]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (300, 4)])
def test_extreme_sizes(toy_checkpoint, size):
    predictor = Predictor(toy_checkpoint, opts=["INPUT.MIN_SIZE_TEST", 0])
    result = predictor(np.full((*size, 3), 90, np.uint8))
    assert result.labels.shape == size and result.scores.shape == (11, *size)


def test_four_threads_get_what_one_gets(toy_checkpoint, make_image):
    predictor = Predictor(toy_checkpoint, crf=True, opts=["TEST.CRF.ITERS", 1])
    images = [make_image(32 + seed, 48 - seed, seed) for seed in range(8)]
    alone = [predictor(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(predictor, images))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert list(one.cams) == list(other.cams)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_images_beyond_memory(toy_checkpoint, make_image, monkeypatch, error):
    predictor = Predictor(toy_checkpoint)

    def fail(*args):
        raise error

    monkeypatch.setattr(predictor._model, "infer_batch", fail)
    with refused("image", "9 x 8 pixels"):
        predictor(make_image(8, 9))
    error = RuntimeError("shapes do not fit the memory format")
    with pytest.raises(RuntimeError, match="shapes"):
        predictor(make_image(8, 9))


def test_refusals(toy_checkpoint, make_image, tmp_path):
    predictor = Predictor(toy_checkpoint)
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with refused("image", "uint8"):
            predictor(wrong)
    with refused("image", "I;16"):
        predictor(Image.fromarray(np.zeros((8, 8), np.uint16)))
    with refused("image_classes", "'unicorn'", "goldfish"):
        predictor(make_image(8, 8), ["unicorn"])
    with refused("gone.png"):
        predictor(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="goldfish"):
        Predictor(toy_checkpoint, vocabulary=["unicorn"])
    with refused("vocabulary", "300"):
        Predictor(toy_checkpoint, vocabulary=[f"thing {i}" for i in range(300)])
    with pytest.raises(UsageError, match=r"gone\.pth"):
        Predictor(tmp_path / "gone.pth")
    with pytest.raises(UsageError, match=r"MODEL\.CAM\.SCALES"):
        Predictor(toy_checkpoint, opts=["MODEL.CAM.SCALES", ()])


def test_checkpoints_without_config(toy_checkpoint, tiny_cfg, make_image, tmp_path, caplog):
    image, expected = make_image(40, 40), Predictor(toy_checkpoint)
    old = tmp_path / "old.pth"
    state = torch.load(toy_checkpoint, weights_only=True)["model"]
    torch.save({"model": state}, old)
    with pytest.raises(UsageError, match=r"old\.pth.*config"):
        Predictor(old)
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(old, config=str(config))
    assert "old.pth" in caplog.text
    np.testing.assert_array_equal(predictor(image).labels, expected(image).labels)
    assert predictor.class_names == expected.class_names
    with refused("DATASETS.TRAIN"):
        elsewhere = ["DATASETS.TRAIN", ("photos_elsewhere_train",)]
        Predictor(old, config=str(config), opts=elsewhere)
    with refused("weights"):
        Predictor("", config=str(config))


class ColorSystem(WeakSegmentor):
    """Sees each class in one color channel; has no segmentation head."""

    sources = {"cam": Source("CAM", "cam"), "pseudo_label": Source("pseudo label", "pseudo_label")}

    @configurable
    def __init__(self, **shared):
        super().__init__(**shared)
        self.classifier = torch.nn.Conv2d(3, self.num_classes, 1, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.eye(3)[:, :, None, None])

    @classmethod
    def from_config(cls, cfg):
        return cls.shared_arguments(cfg)

    def encode(self, images):
        return {"images": images}

    def maps(self, source, features):
        return self.classifier(features["images"])

    def losses(self, batch):
        return {}


@pytest.fixture
def headless(tmp_path, monkeypatch):
    """A predictor with a system that has CAMs only."""
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "ColorSystem", ColorSystem)
    system = System("ColorSystem", add_config=lambda cfg: None)
    monkeypatch.setitem(systems._systems, system.name, system)
    cfg = new_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = system.name, "cpu"
    cfg.MODEL.CLASS_NAMES = ("background", "red", "green", "blue")
    info = CheckpointInfo.of_training(cfg)
    Checkpointer(build_model(cfg), str(tmp_path), info=info).save("model_final")
    return Predictor(tmp_path / "model_final.pth", opts=["TEST.CRF.ITERS", 2])


def test_a_system_without_head_labels_from_its_cams(headless, tmp_path):
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, :20, 0] = image[:, 40:, 2] = 255
    with refused("image_classes", "red, green, blue"):
        headless(image)
    result = headless(image, ["blue", "red"])
    assert (result.labels[:, 5] == 1).all() and (result.labels[:, 55] == 3).all()
    assert (result.labels[:, 30] == 0).all()
    np.testing.assert_array_equal(result.labels, result.scores.argmax(0))
    assert result.scores.shape == (4, 30, 60) and not result.scores[2].any()
    np.testing.assert_array_equal(result.scores[3], result.cams["blue"])
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    record = {"image": pixels, "image_labels": torch.tensor([1.0, 0, 1])}
    expected = headless._model([record])[0]["cam"]
    np.testing.assert_allclose(result.cams["red"], expected[0].numpy(), atol=1e-6)
    assert not headless(image, ["blue"]).labels[:, 5].any()
    assert not headless(image, ()).labels.any()
    refined = Predictor(tmp_path, crf=True)(image, ["blue", "red"])
    assert (refined.labels[:, 5] == 1).all() and (refined.labels[:, 55] == 3).all()
    np.testing.assert_allclose(refined.scores.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("image_classes", [None, (), ("moon", "wheel")])
@pytest.mark.parametrize("options", [(), (*MULTI_SCALE, "TEST.MULTI_SCALE.FLIP", True)])
def test_a_batch_gives_what_its_images_give_alone(
    toy_checkpoint, make_image, image_classes, options
):
    predictor = Predictor(toy_checkpoint, opts=options)
    images = [make_image(50, 41, seed) for seed in range(3)]
    passes, encode = [], predictor._model.backbone.forward
    predictor._model.backbone.forward = lambda x: passes.append(len(x)) or encode(x)
    batch = predictor.predict_batch(images, image_classes)
    together = sum(passes), min(passes)
    passes.clear()
    for image, found in zip(images, batch, strict=True):
        alone = predictor(image, image_classes)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_array_equal(found.labels, alone.labels)
        assert list(found.cams) == list(alone.cams)
        for name, cam in alone.cams.items():
            np.testing.assert_allclose(found.cams[name], cam, atol=1e-5)
    assert together[1] >= 3 and together[0] == sum(passes)
    with pytest.raises(ValueError, match="size"):
        predictor.predict_batch([images[0], images[0][1:]], image_classes)

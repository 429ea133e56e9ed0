# SPDX-License-Identifier: Apache-2.0
"""The mapper: what it hands on, labels, sizes, and images that cannot be read."""

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from helpers import config_with, make_noise, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalnet.data import DATASET_MAPPER_REGISTRY, ImageLabelMapper, build_mapper
from dalnet.data.seeded import seeded_generators

CROP = (64, 96)


def make_cfg(*options):
    return config_with("INPUT.CROP.SIZE", list(CROP), *options)


def record_of(path, labels=(0, 3)):
    return {
        "file_name": str(path),
        "image_id": "x",
        "image_labels": list(labels),
        "sem_seg_file_name": "nowhere.png",
    }


@pytest.fixture
def noise(tmp_path):
    """An image in which every pixel differs from the padding."""
    Image.fromarray(make_noise()).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


class HalfSizeMapper(ImageLabelMapper):
    """The mapper of a system of its own."""

    @classmethod
    def build_views(cls, cfg):
        return lambda image: {"image": torch.from_numpy(image[::2, ::2].copy())}


def test_a_system_brings_views_of_its_own(noise):
    DATASET_MAPPER_REGISTRY.register(HalfSizeMapper)
    cfg = make_cfg("INPUT.DATASET_MAPPER_NAME", "HalfSizeMapper")
    out = build_mapper(cfg, is_train=True)(record_of(noise))
    assert out["image"].shape == (38, 50, 3) and out["image_labels"].sum() == 2
    assert out.keys() == {
        *("image", "image_labels", "known_labels", "image_id", "file_name", "height", "width")
    }
    assert build_mapper(cfg, is_train=False)(record_of(noise))["image"].shape == (3, 75, 100)


def test_unknown_mapper_is_refused_with_those_that_are_known():
    with refused("INPUT.DATASET_MAPPER_NAME", "'MultiCropMapper'", "'SingleViewMapper'"):
        build_mapper(make_cfg("INPUT.DATASET_MAPPER_NAME", "Mapper"), is_train=True)


def test_training_output_has_the_agreed_shapes(noise):
    seed_all_rng(0)
    out = build_mapper(make_cfg(), True)(record_of(noise))
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in out.items() if torch.is_tensor(v)}
    assert shapes == {
        "image": ((3, *CROP), torch.uint8),
        "image_box": ((4,), torch.int64),
        "image_labels": ((20,), torch.float32),
        "known_labels": ((20,), torch.bool),
        "global_views": ((1, 3, *CROP), torch.uint8),
        "local_views": ((8, 3, 96, 96), torch.uint8),
        "local_boxes": ((8, 4), torch.int64),
    }
    single = make_cfg("INPUT.DATASET_MAPPER_NAME", "SingleViewMapper")
    further = {"global_views", "local_views", "local_boxes"}
    assert build_mapper(single, True)(record_of(noise)).keys() == out.keys() - further
    assert out["image_labels"].nonzero().flatten().tolist() == [0, 3]
    assert (out["height"], out["width"], out["image_id"]) == (75, 100, "x")
    assert "sem_seg_file_name" not in out


def test_test_mapper_keeps_or_resizes_and_passes_on(noise):
    out = build_mapper(make_cfg(), False)(record_of(noise))
    expected = torch.from_numpy(np.array(Image.open(noise))).permute(2, 0, 1)
    assert torch.equal(out["image"], expected)
    assert out["sem_seg_file_name"] == "nowhere.png"
    assert out["image_labels"].shape == (20,)
    unlabeled = record_of(noise, ()) | {"unknown_labels": [4]}
    small = build_mapper(make_cfg("INPUT.MIN_SIZE_TEST", 30), False)(unlabeled)
    assert small["image"].shape == (3, 30, 40)
    assert (small["height"], small["width"]) == (75, 100)
    # Zeros would say that the image shows the background only.
    assert "image_labels" not in small and "known_labels" not in small


@pytest.mark.parametrize("is_train", [True, False])
def test_labels_have_three_states(noise, is_train):
    mapper = build_mapper(make_cfg(), is_train)
    out = mapper(record_of(noise, ()))
    assert out["image_labels"].sum() == 0 and out["known_labels"].all()
    out = mapper(record_of(noise, (0, 3)) | {"unknown_labels": [1, 19]})
    assert out["image_labels"].nonzero().flatten().tolist() == [0, 3]
    assert (~out["known_labels"]).nonzero().flatten().tolist() == [1, 19]


def test_large_training_images_are_seen_at_the_size_of_small_ones(tmp_path):
    y, x = np.mgrid[0:75, 0:100]
    small = np.stack([2 * x, 3 * y, np.full_like(x, 200)], axis=2).astype(np.uint8)
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    mapper = build_mapper(make_cfg("INPUT.MIN_SIZE_TRAIN", (75,), "INPUT.PHOTOMETRIC", False), True)
    views = []
    for name, pixels in (("small", small), ("large", large)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        seed_all_rng(3)
        views.append(mapper(record_of(tmp_path / f"{name}.png")))
    assert [(v["height"], v["width"]) for v in views] == [(75, 100), (600, 800)]
    assert torch.equal(views[0]["image_box"], views[1]["image_box"])
    for key in ("image", "global_views", "local_views"):
        difference = (views[0][key].float() - views[1][key].float()).abs()
        assert difference.mean() < 2, key


def test_sizes_of_training_images_that_cannot_be_had(tmp_path):
    Image.new("RGB", (3000, 1)).save(tmp_path / "line.png")
    mapper = build_mapper(make_cfg("INPUT.MIN_SIZE_TRAIN", (75,)), True)
    with refused(tmp_path / "line.png", "3000 x 1 pixels"):
        mapper(record_of(tmp_path / "line.png"))
    ranged = make_cfg("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (75,))
    with refused("INPUT.MIN_SIZE_TRAIN"):
        build_mapper(ranged, True)


def test_exif_orientation_is_respected(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 0, 0), (0, 0, 20, 20))
    exif = image.getexif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    out = build_mapper(make_cfg(), False)(record_of(tmp_path / "turned.jpg"))
    assert out["image"].shape == (3, 40, 20) and (out["height"], out["width"]) == (40, 20)
    assert out["image"][0, :15].min() > 200 and out["image"][0, 25:].max() < 60


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (20, 10), (10, 200, 30)).convert(mode).save(path)
    assert build_mapper(make_cfg(), False)(record_of(path))["image"].shape == (3, 10, 20)


@pytest.mark.parametrize("content", [None, b"", b"no image", "truncated"])
def test_missing_or_unreadable_image_is_named(tmp_path, noise, content):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(noise.read_bytes()[:9000] if content == "truncated" else content)
    for is_train in (True, False):
        with refused(path):
            build_mapper(make_cfg(), is_train)(record_of(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.CROP.TYPE", "relative"),
        ("INPUT.RANDOM_FLIP", "vertical"),
    ],
)
def test_unsupported_input_keys_are_refused(key, value):
    with refused(key):
        build_mapper(make_cfg(key, value), True)


def test_corrected_mask_is_opened_in_training_only(noise, tmp_path):
    mask = np.full((75, 100), 4, np.uint8)
    Image.fromarray(mask).save(tmp_path / "corrected.png")
    record = {**record_of(noise), "corrected_mask": str(tmp_path / "corrected.png")}
    cfg = make_cfg("INPUT.MIN_SIZE_TRAIN", (50,))
    out = build_mapper(cfg, True)(record)
    y0, y1, x0, x1 = out["image_box"].tolist()
    assert (out["label_map"][y0:y1, x0:x1] == 4).all() and out["label_map"].shape == CROP
    assert "label_map" not in build_mapper(cfg, True)(record_of(noise))
    Image.fromarray(mask[:9]).save(tmp_path / "corrected.png")
    with refused("corrected.png"):
        build_mapper(cfg, True)(record)
    assert "label_map" not in build_mapper(cfg, False)(record)


def test_a_corrected_mask_has_the_size_that_was_drawn_for_its_image(noise, tmp_path):
    with Image.open(noise) as image:
        mask = 1 + np.array(image)[..., 0] // 128  # follows the image
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "corrected.png")
    record = {**record_of(noise), "corrected_mask": str(tmp_path / "corrected.png")}
    keys = ("INPUT.MIN_SIZE_TRAIN", (48, 160), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")
    mapper = build_mapper(make_cfg(*keys, "INPUT.PHOTOMETRIC", False), True)
    for _ in range(10):
        out = mapper(record)
        y0, y1, x0, x1 = out["image_box"].tolist()
        expected = 1 + out["image"][0, y0:y1, x0:x1] // 128
        assert (out["label_map"][y0:y1, x0:x1] == expected).float().mean() > 0.85


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    shown=st.sets(st.integers(0, 19)),
    unknown=st.sets(st.integers(0, 19)),
    mode=st.sampled_from(["RGB", "L", "LA", "P", "CMYK", "1"]),
    seed=st.integers(0, 9),
)
def test_any_image_and_any_labels(tmp_path_factory, height, width, shown, unknown, mode, seed):
    path = tmp_path_factory.getbasetemp() / f"any.{'tif' if mode == 'CMYK' else 'png'}"
    Image.fromarray(make_noise(height, width, seed, 0)).convert(mode).save(path)
    shown -= unknown
    record = record_of(path, sorted(shown)) | {"unknown_labels": sorted(unknown)}
    mapper = build_mapper(make_cfg("INPUT.MULTI_CROP.LOCAL_VIEWS", 2), True)
    with seeded_generators(seed):
        out = mapper(record)
    with seeded_generators(seed):
        again = mapper(record)
    assert all(torch.equal(v, again[k]) for k, v in out.items() if torch.is_tensor(v))
    assert out["image"].shape == (3, *CROP) and out["image"].dtype == torch.uint8
    assert (out["height"], out["width"]) == (height, width)
    assert {*out["image_labels"].nonzero().flatten().tolist()} == shown
    assert {*(~out["known_labels"]).nonzero().flatten().tolist()} == unknown
    for y0, y1, x0, x1 in [out["image_box"].tolist(), *out["local_boxes"].tolist()]:
        assert 0 <= y0 < y1 <= CROP[0] and 0 <= x0 < x1 <= CROP[1]
    y0, y1, x0, x1 = out["image_box"].tolist()
    for box in out["local_boxes"].tolist():  # local views show no padding
        assert y0 <= box[0] and box[1] <= y1 and x0 <= box[2] and box[3] <= x1

# SPDX-License-Identifier: Apache-2.0
"""The mapper: shapes, boxes that point at the right pixels, order of operations, seeds."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.env import seed_all_rng
from PIL import Image

from dalnet.config import add_dalnet_config
from dalnet.data import DALNetMapper
from dalnet.data.augmentation import photometric_chain
from dalnet.errors import UsageError

CROP = (64, 96)


def make_cfg(*options):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_list(["INPUT.CROP.SIZE", list(CROP), *options])
    return cfg


def record_of(path, labels=(0, 3)):
    return {
        "file_name": str(path),
        "image_id": "x",
        "image_labels": list(labels),
        "sem_seg_file_name": "nowhere.png",
    }


@pytest.fixture
def noise(tmp_path):
    """A image in which every pixel differs from the padding."""
    values = np.random.default_rng(0).integers(130, 256, (75, 100, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.fixture
def ramp(tmp_path):
    """A image whose red value is 2x and green value 2y: a pixel knows where it is from."""
    y, x = np.mgrid[0:80, 0:120]
    values = np.stack([2 * x, 2 * y, np.full_like(x, 200)], axis=2).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


def test_training_output_has_the_agreed_shapes(noise):
    seed_all_rng(0)
    out = DALNetMapper(make_cfg(), True)(record_of(noise))
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in out.items() if torch.is_tensor(v)}
    assert shapes == {
        "image": ((3, *CROP), torch.uint8),
        "image_box": ((4,), torch.int64),
        "image_labels": ((20,), torch.float32),
        "global_views": ((1, 3, *CROP), torch.uint8),
        "local_views": ((8, 3, 96, 96), torch.uint8),
        "local_boxes": ((8, 4), torch.int64),
    }
    assert out["image_labels"].nonzero().flatten().tolist() == [0, 3]
    assert (out["height"], out["width"], out["image_id"]) == (75, 100, "x")
    assert "sem_seg_file_name" not in out


def test_further_views_may_be_switched_off(noise):
    off = ("INPUT.MULTI_CROP.GLOBAL_VIEWS", 1, "INPUT.MULTI_CROP.LOCAL_VIEWS", 0)
    out = DALNetMapper(make_cfg(*off), True)(record_of(noise))
    assert out["global_views"].shape == (0, 3, *CROP)
    assert out["local_views"].shape == (0, 3, 96, 96)
    assert out["local_boxes"].shape == (0, 4) and out["local_boxes"].dtype == torch.int64


def test_image_box_separates_image_and_padding(noise):
    mapper = DALNetMapper(make_cfg("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]), True)
    padding = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None]
    corners = set()
    for seed in range(30):
        seed_all_rng(seed)
        out = mapper(record_of(noise))
        y0, y1, x0, x1 = out["image_box"].tolist()
        outside = torch.ones(CROP, dtype=torch.bool)
        outside[y0:y1, x0:x1] = False
        # The box is exact: colors may be altered inside, so only its outside is compared.
        assert (out["image"][:, outside] == padding).all()
        assert (out["image"][:, ~outside] != padding).any(0).float().mean() > 0.9
        corners.add((y0, x0))
        for box in out["local_boxes"].tolist():
            assert y0 <= box[0] < box[1] <= y1 and x0 <= box[2] < box[3] <= x1
    assert len(corners) > 5  # the image's place in the padding is random


def test_rescaling_keeps_the_aspect_and_covers_the_range(noise):
    # A crop that holds everything shows the rescaled size in the box.
    cfg = make_cfg("INPUT.RESCALE_RANGE", (0.5, 1.5), "INPUT.CROP.SIZE", [160, 160])
    mapper, factors = DALNetMapper(cfg, True), []
    for seed in range(60):
        seed_all_rng(seed)
        y0, y1, x0, x1 = mapper(record_of(noise))["image_box"].tolist()
        assert abs((y1 - y0) / 75 - (x1 - x0) / 100) < 0.02
        factors.append((x1 - x0) / 100)
    assert 0.5 <= min(factors) < 0.6 and 1.4 < max(factors) <= 1.5
    assert 0.85 < np.mean(factors) < 1.15


def test_local_boxes_point_at_what_the_view_shows(ramp):
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.MULTI_CROP.LOCAL_SIZE", 32)
    mapper = DALNetMapper(make_cfg(*options), True)
    mirrored = 0
    for seed in range(10):
        seed_all_rng(seed)
        out = mapper(record_of(ramp))
        main = out["image"].float()
        for view, (y0, y1, x0, x1) in zip(
            out["local_views"].float(), out["local_boxes"].tolist(), strict=True
        ):
            box = main[:, y0:y1, x0:x1]
            assert (box.mean((1, 2)) - view.mean((1, 2))).abs().max() < 4
            # Left and right edges: in the same or in mirrored order.
            edges = torch.stack([box[0, :, 0].mean(), box[0, :, -1].mean()])
            seen = torch.stack([view[0, :, 0].mean(), view[0, :, -1].mean()])
            flipped = (edges.diff() * seen.diff()).item() < 0
            assert (edges.flip(0) if flipped else edges).sub(seen).abs().max() < 10
            mirrored += flipped
    assert 20 < mirrored < 60  # half of 80


def test_flip_none_mirrors_no_view(ramp):
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.RANDOM_FLIP", "none")
    mapper = DALNetMapper(make_cfg(*options), True)
    for seed in range(10):
        seed_all_rng(seed)
        out = mapper(record_of(ramp))
        y0, y1, x0, x1 = out["image_box"].tolist()
        views = [out["image"][None, :, y0:y1, x0:x1], out["global_views"], out["local_views"]]
        for view in views:
            red = view[:, 0].float().mean(1)
            assert (red[:, -1] > red[:, 0]).all()


def test_second_global_view_comes_from_the_whole_image(ramp):
    # Enlarged twice, the main view shows a quarter at most; the second one reaches further.
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.RESCALE_RANGE", (2.0, 2.0))
    mapper = DALNetMapper(make_cfg(*options), True)
    for seed in range(5):
        seed_all_rng(seed)
        out = mapper(record_of(ramp))
        main, other = (v[0].float().mean(0) for v in (out["image"], out["global_views"][0]))
        assert main.max() - main.min() < 100 < other.max() - other.min()


def test_second_global_view_keeps_proportions_of_the_crop(ramp):
    # A crop three times as wide as high, from regions 9/4 to 4 times as wide as high.
    options = ("INPUT.PHOTOMETRIC", False, "INPUT.CROP.SIZE", [32, 96])
    cfg = make_cfg(*options, "INPUT.MULTI_CROP.GLOBAL_SCALE", (0.3, 0.3))
    mapper = DALNetMapper(cfg, True)
    for seed in range(8):
        seed_all_rng(seed)
        red, green, _ = mapper(record_of(ramp))["global_views"][0].float()
        width, height = red.mean(0), green.mean(1)
        extent = (width.max() - width.min()) / (height.max() - height.min())
        assert 2.1 < extent < 4.4


def test_main_view_is_altered_before_padding_and_always_blurred(noise):
    def roughness(photometric):
        options = ("INPUT.PHOTOMETRIC", photometric, "INPUT.RESCALE_RANGE", (1.0, 1.0))
        mapper = DALNetMapper(make_cfg(*options, "INPUT.CROP.SIZE", [75, 100]), True)
        images = [mapper(record_of(noise))["image"].float() for _ in range(20)]
        return torch.stack(images).mean(1).diff(dim=2).abs().mean()

    seed_all_rng(0)
    assert roughness(True) < 0.6 * roughness(False)


def test_same_seed_same_views_other_seed_other_views(noise):
    mapper = DALNetMapper(make_cfg(), True)
    outs = []
    for seed in (7, 7, 8):
        seed_all_rng(seed)
        outs.append(mapper(record_of(noise)))
    keys = ("image", "image_box", "global_views", "local_views", "local_boxes")
    assert all(torch.equal(outs[0][k], outs[1][k]) for k in keys)
    assert not any(torch.equal(outs[0][k], outs[2][k]) for k in keys if k != "image_box")


def test_photometric_chain_blurs_and_solarizes_as_often_as_asked(noise):
    image = Image.open(noise).convert("RGB")
    seed_all_rng(0)
    assert photometric_chain(False, 1.0)(image) is image

    def roughness(image):
        return np.abs(np.diff(np.asarray(image.convert("L"), dtype=float), axis=1)).mean()

    blurred = [roughness(photometric_chain(True, 1.0)(image)) for _ in range(40)]
    sharp = [roughness(photometric_chain(True, 0.0)(image)) for _ in range(40)]
    assert np.mean(blurred) < 0.6 * np.mean(sharp)
    chain = photometric_chain(True, 0.0, solarize_prob=1.0)
    assert all(np.asarray(chain(image)).max() <= 128 for _ in range(20))
    images = [np.asarray(photometric_chain(True, 0.0)(image)) for _ in range(200)]
    gray = [np.ptp(image, axis=2).max() == 0 for image in images]
    assert 20 < sum(gray) < 62  # 0.2 of 200


def test_test_mapper_keeps_or_resizes_and_passes_on(noise):
    out = DALNetMapper(make_cfg(), False)(record_of(noise))
    expected = torch.from_numpy(np.array(Image.open(noise))).permute(2, 0, 1)
    assert torch.equal(out["image"], expected)
    assert out["sem_seg_file_name"] == "nowhere.png"
    assert out["image_labels"].shape == (20,)
    small = DALNetMapper(make_cfg("INPUT.MIN_SIZE_TEST", 30), False)(record_of(noise, ()))
    assert small["image"].shape == (3, 30, 40)
    assert (small["height"], small["width"]) == (75, 100)
    # Zeros would say that the image shows the background only.
    assert "image_labels" not in small


def test_large_training_images_are_seen_at_the_size_of_small_ones(tmp_path):
    y, x = np.mgrid[0:75, 0:100]
    small = np.stack([2 * x, 3 * y, np.full_like(x, 200)], axis=2).astype(np.uint8)
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    mapper = DALNetMapper(make_cfg("INPUT.MIN_SIZE_TRAIN", (75,), "INPUT.PHOTOMETRIC", False), True)
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
    mapper = DALNetMapper(make_cfg("INPUT.MIN_SIZE_TRAIN", (75,)), True)
    with pytest.raises(UsageError, match=r"line.png: .*3000 x 1 pixels.*MIN_SIZE_TRAIN.*crop"):
        mapper(record_of(tmp_path / "line.png"))
    ranged = make_cfg("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (75,))
    with pytest.raises(UsageError, match="INPUT.MIN_SIZE_TRAIN.*give two"):
        DALNetMapper(ranged, True)


def test_exif_orientation_is_respected(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste((255, 0, 0), (0, 0, 20, 20))
    exif = image.getexif()
    exif[274] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    out = DALNetMapper(make_cfg(), False)(record_of(tmp_path / "turned.jpg"))
    assert out["image"].shape == (3, 40, 20) and (out["height"], out["width"]) == (40, 20)
    assert out["image"][0, :15].min() > 200 and out["image"][0, 25:].max() < 60


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (20, 10), (10, 200, 30)).convert(mode).save(path)
    assert DALNetMapper(make_cfg(), False)(record_of(path))["image"].shape == (3, 10, 20)


@pytest.mark.parametrize("content", [None, b"", b"no image", "truncated"])
def test_missing_or_unreadable_image_is_named(tmp_path, noise, content):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(noise.read_bytes()[:9000] if content == "truncated" else content)
    for is_train in (True, False):
        with pytest.raises(UsageError, match="bad.png"):
            DALNetMapper(make_cfg(), is_train)(record_of(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.CROP.TYPE", "relative"),
        ("INPUT.RANDOM_FLIP", "vertical"),
        ("INPUT.MULTI_CROP.GLOBAL_VIEWS", 3),
    ],
)
def test_unsupported_input_keys_are_refused(key, value):
    with pytest.raises(UsageError, match=key):
        DALNetMapper(make_cfg(key, value), True)


def test_one_pixel_image_still_gives_all_views(tmp_path):
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "dot.png")
    out = DALNetMapper(make_cfg(), True)(record_of(tmp_path / "dot.png"))
    assert out["local_views"].shape == (8, 3, 96, 96)
    boxes = out["local_boxes"]
    assert (boxes[:, 1] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 2]).all()


def test_local_source_is_the_main_view_in_other_colors(noise):
    options = ("INPUT.DATASET_MAPPER_NAME", "ToCoMapper")
    plain = DALNetMapper(make_cfg(*options, "INPUT.PHOTOMETRIC", False), True)
    for seed in range(5):
        seed_all_rng(seed)
        out = plain(record_of(noise))
        assert torch.equal(out["local_source"], out["image"])
        assert out["local_views"].shape == (0, 3, 96, 96)
    altered = DALNetMapper(make_cfg(*options), True)(record_of(noise))
    source, image, (y0, y1, x0, x1) = (
        altered[key] for key in ("local_source", "image", "image_box")
    )
    assert source.shape == image.shape and source.dtype == torch.uint8
    outside = torch.ones(CROP, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    assert torch.equal(source[:, outside], image[:, outside])
    assert (source != image).any()
    assert "local_source" not in DALNetMapper(make_cfg(), True)(record_of(noise))

# SPDX-License-Identifier: Apache-2.0
"""The toy data set: layout, determinism, and whether its world is as described."""

import colorsys
import itertools
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from dalnet.data.datasets import toy, toy_drawing
from dalnet.data.datasets.toy_background import GROUNDS, draw_background
from dalnet.data.datasets.toy_drawing import PALETTES, SHAPES, TEXTURES, Appearance
from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError

MASKS = [3754976028, 3666148416, 1425500335, 960974289]
MEANS = [162.27, 115.55, 88.59, 160.54]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(toy, "SPLITS", {"train": 6, "val": 3})


def arrays(root):
    return {
        str(path.relative_to(root)): np.asarray(Image.open(path))
        for path in sorted(root.rglob("*.png"))
    }


def test_layout_masks_and_tags(small, tmp_path):
    root = tmp_path / "sub" / "toy"
    toy.ensure_toy_dataset(str(root))
    assert [p.name for p in root.parent.iterdir()] == ["toy"], "a temporary folder was left"
    tags = json.loads((root / "image_tags.json").read_text())
    for split, count in (("train", 6), ("val", 3)):
        records = load_voc_layout(root, split, toy.TOY_CLASSES)
        assert len(records) == count
        for record in records:
            photo = Image.open(record["file_name"])
            mask = Image.open(record["sem_seg_file_name"])
            assert (photo.mode, mask.mode) == ("RGB", "P")
            assert photo.size == mask.size == (96, 96)
            assert np.reshape(mask.getpalette(), (-1, 3))[:11].tolist() == voc_palette(11)
            values = sorted(set(np.asarray(mask).flat) - {0})
            assert 1 <= len(values) <= 3 and values[-1] <= len(toy.TOY_CLASSES)
            assert record["image_labels"] == [v - 1 for v in values]
            assert tags[record["image_id"]] == [toy.TOY_CLASSES[v - 1] for v in values]


def test_two_runs_write_the_same_arrays(small, tmp_path):
    for name in "ab":
        toy.ensure_toy_dataset(str(tmp_path / name))
    first, second = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert list(first) == list(second) and len(first) == 18
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    photos = [a.tobytes() for a in first.values() if a.ndim == 3]
    assert len(set(photos)) == 9, "the same picture twice"


def test_the_pictures_are_those_of_this_version():
    """Changed pictures need another VERSION, or old folders stay; then pin the new values here."""
    scenes = [toy.draw_scene(np.random.default_rng((toy.SEED, 0, i))) for i in range(4)]
    assert toy.VERSION == 2
    assert [zlib.crc32(mask.tobytes()) for _, mask in scenes] == MASKS
    # Versions of OpenCV may differ by a few pixels of clutter.
    np.testing.assert_allclose([image.mean() for image, _ in scenes], MEANS, atol=0.3)


def test_the_folder_of_this_version_is_kept_and_another_replaced(small, tmp_path):
    root = tmp_path / "toy"
    root.mkdir()  # an empty folder is taken over
    toy.ensure_toy_dataset(str(root))
    mark = root / "mark"
    mark.touch()
    toy.ensure_toy_dataset(str(root))
    assert mark.exists(), "generated twice"
    manifest = json.loads((root / "dataset.json").read_text())
    assert (manifest["version"], manifest["seed"]) == (toy.VERSION, toy.SEED)
    (root / "dataset.json").write_text(json.dumps({**manifest, "version": toy.VERSION - 1}))
    toy.ensure_toy_dataset(str(root))
    assert not mark.exists() and len(arrays(root)) == 18
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_nothing_is_left_of_a_broken_run(small, tmp_path, monkeypatch):
    pictures = iter([toy.draw_scene(np.random.default_rng(0))])
    monkeypatch.setattr(toy, "draw_scene", lambda rng: next(pictures))
    with pytest.raises(StopIteration):
        toy.ensure_toy_dataset(str(tmp_path / "toy"))
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_files_are_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        toy.ensure_toy_dataset(str(tmp_path))
    for manifest in ("{", "[]", '{"version": 0}'):
        (tmp_path / "dataset.json").write_text(manifest)
        with pytest.raises(UsageError, match="holds other files"):
            toy.ensure_toy_dataset(str(tmp_path))
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(UsageError, match="holds other files"):
        toy.ensure_toy_dataset(str(tmp_path / "thesis.txt"))
    with pytest.raises(UsageError, match="cannot be written"):
        toy.ensure_toy_dataset(str(tmp_path / "thesis.txt" / "toy"))


def test_unreadable_folder_is_named(tmp_path, lock):
    lock(tmp_path)
    with pytest.raises(UsageError, match="dataset.json cannot be read .Permission"):
        toy.ensure_toy_dataset(str(tmp_path))


def test_scenes_are_mostly_ground_with_visible_objects():
    shares, seen = [], set()
    for i in range(80):
        image, mask = toy.draw_scene(np.random.default_rng(i))
        assert (image.shape, image.dtype, mask.dtype) == ((96, 96, 3), np.uint8, np.uint8)
        shares.append((mask > 0).mean())
        seen |= set(mask.flat)
    assert seen == set(range(len(toy.TOY_CLASSES) + 1))
    assert 0.08 < np.mean(shares) < 0.25
    assert min(shares) > 0.015


@pytest.mark.parametrize("ground", GROUNDS)
def test_four_of_five_objects_are_at_home(ground):
    rng = np.random.default_rng(0)
    homes = [toy.describe_classes()[name]["home"] for name in toy.TOY_CLASSES]
    drawn = [homes[toy._draw_class(rng, ground)] for _ in range(1000)]
    assert 0.76 < np.mean([home == ground for home in drawn]) < 0.84


def test_classes_share_at_most_one_attribute():
    assert len(toy.TOY_CLASSES) >= 8
    for a, b in itertools.combinations(toy.TOY_LOOKS, 2):
        shared = (a.shape == b.shape, a.texture == b.texture, a.palette == b.palette)
        assert sum(shared) <= 1
    assert {c["home"] for c in toy.describe_classes().values()} == set(GROUNDS)


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_is_where_the_object_covers_half_of_the_pixel(shape):
    """The same object on black and on white: what shines through is what it does not cover."""
    look = Appearance(shape, "dots", "red")
    drawn = []
    for ground in (0.0, 255.0):
        image = np.full((60, 60, 3), ground)
        mask = toy_drawing.draw_object(np.random.default_rng(3), image, look, (25.0, 31.0), 18.0)
        drawn.append(image)
    coverage = 1 - (drawn[1] - drawn[0])[..., 0] / 255
    np.testing.assert_array_equal(mask, coverage > 0.499)
    assert ((coverage > 0.01) & (coverage < 0.99)).sum() > 20, "edges are not smooth"
    assert 0.15 * 36**2 < mask.sum() < 0.85 * 36**2


@pytest.mark.parametrize("shape", SHAPES)
def test_no_object_is_cut_by_its_window(shape, monkeypatch):
    look = Appearance(shape, "stripes", "red")

    def area(seed):
        image = np.zeros((120, 120, 3))
        rng = np.random.default_rng(seed)
        return toy_drawing.draw_object(rng, image, look, (60.0, 60.0), 20.0).sum()

    areas = [area(seed) for seed in range(12)]
    monkeypatch.setattr(toy_drawing, "_REACH", 2.5)
    assert areas == [area(seed) for seed in range(12)]


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_mix_both_colours(texture):
    y, x = np.mgrid[-3:3:0.05, -3:3:0.05]
    weight = TEXTURES[texture](x, y)
    assert weight.min() >= 0 and weight.max() <= 1
    assert (weight < 0.2).mean() > 0.1 and (weight > 0.8).mean() > 0.1


def test_colours():
    for h, s, v in ((0, 1, 1), (95, 0.65, 0.72), (200, 0.3, 0.9), (325, 0.45, 0.95), (-10, 2, 1)):
        expected = colorsys.hsv_to_rgb(h / 360 % 1, min(s, 1), v)
        np.testing.assert_allclose(toy_drawing.hsv_to_rgb(h, s, v), np.multiply(255, expected))
    rng = np.random.default_rng(0)
    for main, _ in PALETTES.values():
        colours = [toy_drawing.jittered_colour(rng, main) for _ in range(20)]
        assert 3 < np.std(colours, axis=0).max() < 40, "colours vary, but within their hue"


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_vary_and_stay_in_range(ground):
    first, second = (draw_background(np.random.default_rng(i), ground, 48) for i in (0, 1))
    assert first.shape == (48, 48, 3) and first.min() >= 0 and first.max() <= 255
    assert np.abs(first - second).mean() > 2

# SPDX-License-Identifier: Apache-2.0
"""One's own tagged images as a data set."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused

from dalnet.data.datasets.tagged import TaggedImages, match_masks, register_tagged


@pytest.fixture
def described(tmp_path):
    """Five images, one in a folder, with a table that leaves some entries open."""
    for name in ("a.jpg", "b.png", "sub/c.JPG", "d.jpg", "e.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("a.png", "c.png", "unused.png"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / name).touch()
    tags = tmp_path / "tags.csv"
    tags.write_text("file,dog,cat,puppy\na,1,0,0\nb.png,0,0,0\nc,,1,0\nd.jpg,0,0,1\n")
    classes = {"dog": "a dog", "cat": "cat"}
    return TaggedImages(tmp_path / "images", tags, classes, {"puppy": "dog"})


def by_id(records):
    return {record["image_id"]: record for record in records}


def test_three_states_of_a_label(described):
    records = by_id(described.records("train"))
    labels = {name: (r["image_labels"], r.get("unknown_labels")) for name, r in records.items()}
    assert labels == {
        "a.jpg": ([0], None),
        "b.png": ([], None),  # shows none
        "sub/c.JPG": ([1], [0]),  # a blank cell
        "d.jpg": ([0], None),  # a synonym
        "e.jpg": ([], [0, 1]),  # not in the file
    }
    assert Path(records["sub/c.JPG"]["file_name"]) == described.images / "sub/c.JPG"
    none = TaggedImages(**{**vars(described), "untagged": "none"})
    assert "unknown_labels" not in by_id(none.records("train"))["e.jpg"]


def test_splits_and_masks(described, tmp_path):
    both = {"held_out": ("a.jpg", "sub/c.JPG"), "masks": tmp_path / "masks"}
    described = TaggedImages(**{**vars(described), **both})
    val = by_id(described.records("val"))
    assert {name: r["sem_seg_file_name"] for name, r in val.items()} == {
        "a.jpg": str(tmp_path / "masks/a.png"),
        "sub/c.JPG": str(tmp_path / "masks/c.png"),
    }
    assert {*by_id(described.records("train"))} == {"b.png", "d.jpg", "e.jpg"}


def test_sub_folders_are_classes(tmp_path):
    for name in ("cat/a.jpg", "dog/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    described = TaggedImages(tmp_path, None, {"cat": "cat", "dog": "dog"})
    assert [r["image_labels"] for r in described.records("train")] == [[0], [1]]


def test_file_is_read_as_it_was_written(described, tmp_path):
    described = TaggedImages(**{**vars(described), "held_out": ("a.jpg",)})
    described.save(tmp_path / "dataset.yaml")
    assert TaggedImages.load(tmp_path / "dataset.yaml") == described
    register_tagged(tmp_path / "dataset.yaml")
    assert [r["image_id"] for r in DatasetCatalog.get("tagged_val")] == ["a.jpg"]
    metadata = MetadataCatalog.get("tagged_train")
    assert metadata.stuff_classes == ["background", "dog", "cat"]
    assert metadata.prompt_names == ["a dog", "cat"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gone.jpg,1,0,0\n", ("gone.jpg",)),
        ("a.jpg,0,1,0\n", ("a.jpg",)),  # named twice, once without suffix, and they differ
    ],
)
def test_names_that_do_not_fit_the_images_are_refused(described, line, words):
    with described.tags.open("a") as stream:
        stream.write(line)
    with refused("tags.csv", *words):
        described.records("train")


def test_tag_that_is_no_class_is_refused(described):
    with refused("tags.csv", "puppy"):
        TaggedImages(**{**vars(described), "synonyms": {}}).records("train")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "NoneType"),
        ("images: 3", "int"),
        ("images: [", "YAML"),
        ("images: a", "'classes'"),
        ("images: 3\nclasses: [cat]", "int"),
        ("images: a\nclasses: 3", "classes"),
        ("images: a\nclasses: cat", "'cat'"),
        ("images: a\nclasses: [no]", "False"),
        ("images: a\nclasses: {cat: no}", "False"),
        ("images: a\nclasses: {1: cat}", "classes"),
        ("images: a\nclasses: [cat]\nsynonyms: {puppy: no}", "False in synonyms"),
        ("images: a\nclasses: [cat]\nsynonyms: {1: cat}", "1 in synonyms"),
        ("images: a\nclasses: [cat]\nsynonyms: [puppy]", "synonyms"),
        ("images: a\nclasses: [cat]\nheld_out: a.jpg", "held_out"),
        ("images: a\nclasses: [cat]\nmask: b", "'mask'"),
        ("images: a\nclasses: [cat]\nuntagged: no", "untagged"),
    ],
)
def test_file_of_another_form_is_refused(tmp_path, text, word):
    (tmp_path / "dataset.yaml").write_text(text)
    with refused("dataset.yaml", word):
        TaggedImages.load(tmp_path / "dataset.yaml")


def test_class_without_words_has_its_name_for_them(tmp_path):
    path = tmp_path / "dataset.yaml"
    path.write_text("images: a\nclasses: {cat: , dog: a dog}")
    assert TaggedImages.load(path).classes == {"cat": "cat", "dog": "a dog"}


@pytest.mark.parametrize("key", ["images", "masks", "corrections"])
def test_folder_that_does_not_exist_is_refused(described, tmp_path, key):
    described = TaggedImages(**{**vars(described), key: tmp_path / "gone"})
    with refused(tmp_path / "gone", key):
        described.records("train")


def test_folders_that_cannot_be_read_are_refused(described, tmp_path, lock):
    (tmp_path / "masks/sub").mkdir()
    lock(tmp_path / "masks/sub")
    with refused(tmp_path / "masks/sub", "right to read"):
        TaggedImages(**{**vars(described), "masks": tmp_path / "masks"}).records("train")
    lock(tmp_path / "images/sub")
    with refused(tmp_path / "images/sub", "right to read"):
        described.records("train")


def test_corrections_are_named_in_training_only(described, tmp_path):
    described = TaggedImages(
        **{**vars(described), "corrections": tmp_path / "masks", "held_out": ("a.jpg",)}
    )
    records = by_id(described.records("train"))
    assert records["sub/c.JPG"]["corrected_mask"] == str(tmp_path / "masks/c.png")
    assert "corrected_mask" not in records["b.png"]
    assert "corrected_mask" not in by_id(described.records("val"))["a.jpg"]
    (tmp_path / "none").mkdir()
    with refused(tmp_path / "none"):
        TaggedImages(**{**vars(described), "corrections": tmp_path / "none"}).records("train")


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        (["x/a.jpg", "y/a.jpg"], ["x/a.png"], {"x/a.jpg": "x/a.png"}),
        (["x/a.jpg", "x/b.jpg"], ["masks/x/a.png"], {"x/a.jpg": "masks/x/a.png"}),
        (["x/a.jpg"], ["y/a.png"], {}),  # of another folder
        (["20240102-a.png"], ["y/a.png"], {}),  # a date, not the digits of an upload
        (
            ["a.jpg", "a.png"],
            ["a.jpg.png", "a.png.png"],
            {"a.jpg": "a.jpg.png", "a.png": "a.png.png"},
        ),
        (["a.jpg"], ["a.PNG", "a_mask.png", "._a.png", "b.jpg"], {"a.jpg": "a.PNG"}),
    ],
)
def test_masks_by_image(tmp_path, images, masks, expected):
    for name in masks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = match_masks(tmp_path, images)
    assert found.by_image == {file: tmp_path / name for file, name in expected.items()}
    assert found.unused == [name for name in masks if name in ("a_mask.png", "y/a.png")]


@pytest.mark.parametrize("images", [["x/a.jpg", "y/a.jpg"], ["a.jpg", "a.png"]])
def test_mask_that_may_be_of_several_images_is_refused(tmp_path, images):
    (tmp_path / "a.png").touch()
    with refused(tmp_path, "a.png", *images):
        match_masks(tmp_path, images)

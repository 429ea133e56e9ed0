# SPDX-License-Identifier: Apache-2.0
"""From tagged images to a training: what is described, held out and chosen."""

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.config import load_config
from dalnet.data.datasets.tagged import TaggedImages
from dalnet.labeling.tagged_training import (
    ClassWords,
    describe_images,
    prepare_run,
    read_class_words,
)


def test_classes_are_those_of_the_tags(folder):
    described = describe_images(folder / "images", folder / "tags.csv")
    assert described.classes == {"blue": "blue", "red": "red"} and not described.held_out


def test_part_of_the_images_with_masks_is_held_out(folder):
    for number in range(4):
        (folder / "masks" / f"{number}.png").unlink()
    paths = folder / "images", folder / "tags.csv"
    described = describe_images(*paths, masks=folder / "masks", val="0.5")
    assert len(described.held_out) == 3
    assert all(int(name.removesuffix(".png")) > 3 for name in described.held_out)
    assert describe_images(*paths, masks=folder / "masks", val="0.5") == described
    (folder / "val.txt").write_text("1.png\n2.png\n")
    described = describe_images(*paths, val=str(folder / "val.txt"))
    assert described.held_out == ("1.png", "2.png")
    (folder / "val.txt").write_text("gone.png\n")
    with refused("val.txt", "gone.png"):
        describe_images(*paths, val=str(folder / "val.txt"))
    with refused("val"):
        describe_images(*paths, val="1.5")


def test_class_in_every_image_is_warned_of_and_one_in_none_refused(folder, caplog):
    (folder / "tags.csv").write_text("".join(f"{i}.png,red\n" for i in range(10)))
    text = (folder / "tags.csv").read_text()
    (folder / "tags.csv").write_text(f"file,tags\n{text}")
    describe_images(folder / "images", folder / "tags.csv")
    assert "every image shows red" in caplog.text
    words = ClassWords({"red": "red", "green": "green"})
    with refused("tags.csv", "green"):
        describe_images(folder / "images", folder / "tags.csv", words=words)


@pytest.mark.parametrize("untagged, count", [("unknown", 7), ("none", 10)])
def test_the_recipe_counts_the_images_that_are_trained_on(folder, capsys, untagged, count):
    arguments = {"tags": folder / "tags.csv", "align": False, "untagged": untagged}
    prepare_run(folder / "images", str(folder / "run"), **arguments)
    assert f"- {count} images of 2 classes" in capsys.readouterr().out


def test_words_of_classes(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: {tv: tv monitor}\nsynonyms: {television: tv}\nbackground: room\n")
    assert read_class_words(path) == ClassWords({"tv": "tv monitor"}, {"television": "tv"}, "room")
    path.write_text("classes: [cat, dog]\n")
    assert read_class_words(path).classes == {"cat": "cat", "dog": "dog"}
    path.write_text("classes: {no: , 007: agent}\nsynonyms: {off: no}\n")
    assert read_class_words(path) == ClassWords({"no": "no", "007": "agent"}, {"off": "no"})
    wrong = ("cat", "classes: cat", "classes:", "classes: [cat]\nsynonym: {}", "- [")
    for text in (*wrong, "classes: [a]\nsynonyms: {b: c}"):
        path.write_text(text)
        with refused("classes.yaml"):
            read_class_words(path)


def test_run_that_goes_on_needs_the_same_images(folder):
    output = str(folder / "run")
    arguments = {"tags": folder / "tags.csv", "align": False}
    run = prepare_run(folder / "images", output, **arguments)
    assert run.recipe.config == "deit_tiny/baseline_ptc"
    assert not (folder / "run").exists()
    run.write()
    assert TaggedImages.load(folder / "run/dataset.yaml").tags == folder / "tags.csv"
    prepare_run(folder / "images", output, resume=True, **arguments)
    with refused("dataset.yaml"):
        prepare_run(folder / "images", output, resume=True, untagged="none", **arguments)
    with refused("output"):
        prepare_run(folder / "images", None, **arguments)
    with refused("images"):
        prepare_run(folder / "nowhere", output, **arguments)


def test_a_config_of_ones_own_is_left_as_it_is(folder, capsys):
    config = folder / "own.yaml"
    config.write_text(
        "_BASE_: dalnet://configs/deit_tiny/baseline_ptc.yaml\nSOLVER: {MAX_ITER: 77}\n"
    )
    arguments = {"tags": folder / "tags.csv", "config": str(config)}
    run = prepare_run(folder / "images", str(folder / "run"), **arguments)
    run.write()
    cfg = load_config(run.recipe.config, run.recipe.opts)
    assert cfg.SOLVER.MAX_ITER == 77 and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    base = load_config("deit_tiny/baseline_ptc")
    assert cfg.SOLVER.IMS_PER_BATCH == base.SOLVER.IMS_PER_BATCH
    assert cfg.MODEL.DALNET == base.MODEL.DALNET
    assert str(folder / "run/dataset.yaml") == cfg.DATASETS.DESCRIPTION
    assert "own.yaml" in capsys.readouterr().out
    named = prepare_run(folder / "images", str(folder / "run"), encoder="deit-small", **arguments)
    cfg = load_config(named.recipe.config, named.recipe.opts)
    assert cfg.MODEL.VIT.NAME == "deit_small_patch16_224" and cfg.SOLVER.MAX_ITER == 77


def test_masks_of_other_values_are_converted_for_the_held_out_images(folder):
    (folder / "masks/classes.txt").write_text("red\nblue\n")
    arguments = {"tags": folder / "tags.csv", "masks": folder / "masks", "val": "0.5"}
    for resume in (False, True):
        output = str(folder / "run")
        prepare_run(folder / "images", output, align=False, resume=resume, **arguments).write()
    described = TaggedImages.load(folder / "run/dataset.yaml")
    assert described.masks == folder / "run/val_masks" and len(described.held_out) == 5
    for record in described.records("val"):
        old = np.array(Image.open(folder / "masks" / record["image_id"]))
        new = np.array(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(new, np.array([0, 2, 1])[old])


def test_corrected_masks_of_other_values_are_converted(folder):
    (folder / "masks/classes.txt").write_text("red\nblue\n")
    arguments = {"tags": folder / "tags.csv", "corrections": folder / "masks", "align": False}
    for resume in (False, True):
        prepare_run(folder / "images", str(folder / "run"), resume=resume, **arguments).write()
    described = TaggedImages.load(folder / "run/dataset.yaml")
    assert described.corrections == folder / "run/corrected_masks"
    records = described.records("train")
    assert len(records) == 10
    for record in records:
        old = np.array(Image.open(folder / "masks" / record["image_id"]))
        new = np.array(Image.open(record["corrected_mask"]))
        assert np.array_equal(new, np.array([0, 2, 1])[old])
    (folder / "run/dataset.yaml").unlink()
    prepare_run(folder / "images", str(folder / "run"), **arguments | {"corrections": None}).write()
    with refused("dataset.yaml"):
        prepare_run(folder / "images", str(folder / "run"), resume=True, **arguments)


@pytest.mark.parametrize("kind", ["masks", "corrections"])
def test_masks_of_an_earlier_run_are_not_used(folder, kind):
    (folder / "masks/classes.txt").write_text("red\nblue\n")
    arguments = {"tags": folder / "tags.csv", kind: folder / "masks", "val": "0.5", "align": False}
    paths = folder / "images", str(folder / "run")
    prepare_run(*paths, **arguments).write()
    part, key = ("val", "sem_seg_file_name") if kind == "masks" else ("train", "corrected_mask")
    first = TaggedImages.load(folder / "run/dataset.yaml").records(part)
    gone = first[0]["image_id"]
    (folder / "masks" / gone).unlink()
    if kind == "corrections":
        with refused("dataset.yaml"):
            prepare_run(*paths, resume=True, **arguments)
    (folder / "val.txt").write_text("\n".join(r["image_id"] for r in first if part == "val"))
    if kind == "masks":
        arguments["val"] = str(folder / "val.txt")
    prepare_run(*paths, **arguments).write()
    again = {r["image_id"]: r for r in TaggedImages.load(folder / "run/dataset.yaml").records(part)}
    assert key not in again.pop(gone)
    assert again and all(key in record for record in again.values())


def test_images_of_one_stem_have_converted_masks_of_their_own(folder):
    Image.open(folder / "images/0.png").resize((28, 20)).save(folder / "images/0.jpg")
    lines = (folder / "tags.csv").read_text()
    (folder / "tags.csv").write_text(f"{lines}\n0.jpg,red\n")
    (folder / "masks/0.png").rename(folder / "masks/0.png.png")
    Image.fromarray(np.full((20, 28), 1, np.uint8)).save(folder / "masks/0.jpg.png")
    (folder / "masks/classes.txt").write_text("red\nblue\n")
    arguments = {"tags": folder / "tags.csv", "corrections": folder / "masks", "align": False}
    prepare_run(folder / "images", str(folder / "run"), **arguments).write()
    records = TaggedImages.load(folder / "run/dataset.yaml").records("train")
    sizes = {r["image_id"]: Image.open(r["corrected_mask"]).size for r in records}
    assert sizes["0.jpg"] == (28, 20) and sizes["0.png"] == (56, 40)


@pytest.mark.parametrize("kind", ["masks", "corrections", "output"])
def test_folders_within_that_of_the_images_are_refused(folder, kind):
    inner = folder / "images/inner"
    (folder / "masks").rename(inner)
    arguments = {"tags": folder / "tags.csv", "align": False, "output": str(folder / "run")}
    with refused(kind, "folder of the images"):
        prepare_run(
            folder / "images", **arguments | {kind: str(inner) if kind == "output" else inner}
        )


def test_tagged_images_are_left_for_the_training(folder):
    (folder / "val.txt").write_text("0.png\n1.png\n3.png\n4.png\n5.png\n6.png\n7.png\n")
    arguments = {"tags": folder / "tags.csv", "val": str(folder / "val.txt"), "align": False}
    with refused("val", "tag"):
        prepare_run(folder / "images", str(folder / "run"), **arguments)


def test_few_masks_are_evaluated_too(folder):
    for number in range(8):
        (folder / "masks" / f"{number}.png").unlink()
    described = describe_images(folder / "images", folder / "tags.csv", masks=folder / "masks")
    assert len(described.held_out) == 1 and described.held_out[0] in ("8.png", "9.png")


def test_list_of_held_out_images(folder):
    paths, listed = (folder / "images", folder / "tags.csv"), folder / "val.txt"
    listed.write_bytes("\ufeff1\r\n./2.png\r\n1.png\r\n".encode())
    assert describe_images(*paths, val=str(listed)).held_out == ("1.png", "2.png")
    listed.write_text("1.png\ngone.png\n")
    with refused(listed, "gone.png"):
        describe_images(*paths, val=str(listed))
    listed.write_text("\n".join(f"{number}.png" for number in range(10)))
    for wrong in (str(listed), "20%", "1.0"):
        with refused("val"):
            describe_images(*paths, val=wrong)


@pytest.mark.parametrize("kind", ["masks", "corrections"])
def test_masks_that_are_of_no_image_are_named(folder, caplog, kind):
    masks = folder / "masks"
    for number in range(5):
        (masks / f"{number}.png").rename(masks / f"{number}_mask.png")
    arguments = folder / "images", folder / "tags.csv"
    describe_images(*arguments, **{kind: masks})
    assert "0_mask.png" in caplog.text and "9.png" not in caplog.text
    for number in range(5, 10):
        (masks / f"{number}.png").unlink()
    with refused(kind if kind == "masks" else masks):
        describe_images(*arguments, **{kind: masks})


@pytest.mark.parametrize("name", ["vit_base_patch16_224.augreg_in21k", "vit_small_patch14_x"])
def test_encoder_from_a_file_has_the_name_and_statistics_of_its_model(folder, name):
    path = folder / f"{name}.safetensors"
    path.touch()
    arguments = {"tags": folder / "tags.csv", "align": False, "encoder": str(path)}
    recipe = prepare_run(folder / "images", str(folder / "run"), **arguments).recipe
    keys = dict(zip(recipe.opts[::2], recipe.opts[1::2], strict=True))
    assert keys["MODEL.VIT.NAME"] == name and keys["MODEL.VIT.WEIGHTS"] == str(path)
    # A name that timm does not know has those of the recipe.
    known = {"vit_base_patch16_224.augreg_in21k": "[127.5, 127.5, 127.5]"}
    assert keys.get("MODEL.PIXEL_MEAN") == known.get(name)

# SPDX-License-Identifier: Apache-2.0
"""What a check of tagged images finds, and its page."""

import shutil
import unicodedata

import numpy as np
import pytest
import torch
from detectron2.utils.events import get_event_storage
from helpers import refused
from PIL import Image

from dalnet.cli import main
from dalnet.data.labels import is_known
from dalnet.engine.step import StepTrainer
from dalnet.labeling import estimate
from dalnet.labeling.check import check_images
from dalnet.labeling.check_page import write_page
from dalnet.labeling.tagged_training import describe_images


def draw(path, seed):
    """Write a smooth random image, unlike that of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(coarse).resize((60, 48), Image.Resampling.BILINEAR).save(path)


@pytest.fixture
def folder(tmp_path):
    """Thirty images: cat in all but one of four, dog in every third, owl only in two."""
    images = tmp_path / "images"
    images.mkdir()
    lines = ["file,tags"]
    for number in range(30):
        draw(images / f"{number}.png", number)
        tags = ["cat"] * (number % 4 > 0) + ["dog"] * (number % 3 == 0) + ["owl"] * (number < 2)
        lines.append(f"{number}.png,{';'.join(tags)}")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    return tmp_path


def find(folder, **options):
    """Return the notes as one text, by level."""
    findings = check_images(folder / "images", folder / "tags.csv", **options)
    texts = dict.fromkeys(("error", "warning", "note"), "")
    for note in findings.notes:
        texts[note.level] += note.text + "\n"
    assert findings.can_start == (not texts["error"])
    return findings, texts


def change(folder, old, new):
    path = folder / "tags.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_counts_and_rare_classes(folder):
    findings, texts = find(folder)
    assert findings.counts == {"cat": 22, "dog": 10, "owl": 2}
    assert "only 2 images show owl" in texts["warning"] and not texts["error"]
    # 12.png and 24.png show dog; nothing is known of the images with an empty cell.
    assert "have no known tags" in texts["warning"]


@pytest.mark.parametrize(
    ("old", "new", "level", "words"),
    [
        ("5.png", "gone.png", "error", ("gone.png", "no image")),
        ("5.png,cat", "5,cat\n5.jpg,cat", "error", ("5.png", "twice")),
        ("6.png,cat;dog", "6.png,Cat;dog", "warning", ("'cat'", "'Cat'")),
        ("6.png,cat;dog", "6.png,cats;dog", "warning", ("'cat'", "'cats'")),
        ("6.png,cat;dog", "6.png,cat dog", "warning", ("'cat dog'", ";")),
        ("6.png,cat;dog", "6.png,Background", "error", ("'Background'",)),
        ("6.png,cat;dog", "6.png,none", "error", ("'none'",)),
    ],
)
def test_names_and_tags_that_do_not_fit(folder, old, new, level, words):
    change(folder, old, new)
    _, texts = find(folder)
    assert all(word in texts[level] for word in words)


def test_images_that_show_no_class_are_counted(folder):
    assert "none of the classes" not in find(folder)[1]["note"]
    lines = [f"{n}.png,{int(n < 4)},{int(n > 6)}" for n in range(30)]
    (folder / "tags.csv").write_text("\n".join(["file,cat,dog", *lines]))
    text = "3 of 30 images are taken to show none of the classes: 4.png, 5.png, 6.png"
    assert text in find(folder)[1]["note"]


def test_images_without_tags_may_show_none(folder, capsys):
    findings, texts = find(folder, untagged="none")
    assert "left out" not in texts["warning"]
    assert "are taken to show none of the classes" in texts["note"]
    assert sum(tags == [] for tags in findings.tags.values()) > 0
    words = ["check", "--images", folder / "images", "--tags", folder / "tags.csv"]
    main([str(word) for word in [*words, "--no-estimate", "--untagged", "none"]])
    assert "left out" not in capsys.readouterr().out


def test_given_classes(folder):
    _, texts = find(folder, classes=["cat", "dog", "fox"])
    assert "owl (2)" in texts["error"] and "no image shows fox" in texts["error"]
    _, texts = find(folder, classes=["cat", "dog"], synonyms={"owl": "cat"})
    assert not texts["error"]


def test_tags_and_classes_are_compared_in_one_unicode_form(folder):
    name = "K\u00e4tzchen"
    text = (folder / "tags.csv").read_text().replace("cat", unicodedata.normalize("NFD", name))
    (folder / "tags.csv").write_text(text)
    findings, texts = find(folder, classes=[name, "dog"], synonyms={"owl": name})
    assert not texts["error"] and findings.counts == {name: 23, "dog": 10}


def test_a_tag_in_two_unicode_forms_is_one_class(folder):
    name = "K\u00e4tzchen"
    text = (folder / "tags.csv").read_text().replace("cat", name)
    head, *lines = text.splitlines()
    lines = [unicodedata.normalize("NFD", line) if i % 2 else line for i, line in enumerate(lines)]
    (folder / "tags.csv").write_text("\n".join([head, *lines]))
    findings, texts = find(folder)
    assert findings.classes == [name, "dog", "owl"] or set(findings.classes) == {name, "dog", "owl"}
    assert findings.counts[name] == 22 and not texts["error"]
    assert list(describe_images(folder / "images", folder / "tags.csv").classes) == findings.classes


def test_without_any_tag_a_training_cannot_start(folder, capsys):
    (folder / "tags.csv").write_text("file,tags\n0.png,\n1.png,\n")
    with pytest.raises(SystemExit):
        main(["check", "--images", str(folder / "images"), "--tags", str(folder / "tags.csv")])
    assert "no image has a tag" in capsys.readouterr().out


def test_classes_that_cannot_be_told_apart(folder):
    lines = [f"{n}.png,{'cat;dog' if n % 2 else 'cow'}" for n in range(30)]
    (folder / "tags.csv").write_text("\n".join(["file,tags", *lines]))
    _, texts = find(folder)
    assert "cat and dog are never apart" in texts["warning"]
    lines = [f"{n}.png,cat" for n in range(30)]
    (folder / "tags.csv").write_text("\n".join(["file,tags", *lines]))
    assert "every image shows cat" in find(folder)[1]["warning"]


def test_damaged_turned_and_doubled_images(folder):
    images = folder / "images"
    (images / "5.png").write_bytes((images / "5.png").read_bytes()[:60])
    shutil.copy(images / "7.png", images / "8.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "9.png").save(images / "9.jpg", exif=exif)
    (images / "9.png").unlink()
    findings, texts = find(folder)
    assert "5.png" in texts["error"] and "9.jpg" in texts["note"]
    assert findings.sizes["9.jpg"] == (48, 60)
    # Of 8.png nothing is known: it is no contradiction to the cat of 7.png.
    assert "7.png = 8.png" in texts["note"] and "different tags" not in texts["warning"]
    shutil.copy(images / "7.png", images / "6.png")
    assert "1 of them have different tags: 6.png / 7.png / 8.png" in find(folder)[1]["warning"]


def test_files_of_several_images_and_of_16_bits(folder):
    images = folder / "images"
    pages = [Image.open(images / f"{number}.png") for number in (1, 2)]
    pages[0].save(images / "1.tif", save_all=True, append_images=pages[1:])
    (images / "1.png").unlink()
    Image.fromarray(np.full((48, 60), 1000, np.uint16)).save(images / "2.png")
    _, texts = find(folder)
    assert "1 files hold several images, of which the first is used: 1.tif" in texts["warning"]
    assert "2.png (it has more than 8 bits" in texts["error"] and "convert" in texts["error"]


def test_masks(folder):
    masks = folder / "masks"
    masks.mkdir()
    values = {1: 1, 2: 2, 3: 9, 5: 255}  # cat, dog, none, ignored
    for number, value in values.items():
        mask = np.zeros((48, 60), np.uint8)
        mask[:20] = value
        Image.fromarray(mask).save(masks / f"{number}.{'PNG' if number % 2 else 'png'}")
    (masks / "7_mask.png").touch()
    _, texts = find(folder, masks=masks)
    assert "called like no image: 7_mask.png" in texts["warning"]
    assert "3.PNG" in texts["error"]
    assert "dog is in masks of images that are not tagged with it (1)" in texts["warning"]
    assert "cat is tagged in images whose mask has no pixel of it (2)" in texts["warning"]


def test_page_shows_everything_and_runs_nothing(folder):
    change(folder, "5.png,cat", "5.png,<script>x</script>;cat")
    findings, _ = find(folder)
    write_page(findings, folder / "check.html", "Pets & others", "About 3 minutes.")
    text = (folder / "check.html").read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "Pets &amp; others" in text
    assert text.count("data:image/jpeg;base64,") >= 12


def test_command_tells_by_its_status_whether_a_training_can_start(folder, capsys):
    argv = ["check", "--images", folder / "images", "--tags", folder / "tags.csv", "--no-estimate"]
    main([str(word) for word in [*argv, "--output", folder / "check.html"]])
    assert "owl" in capsys.readouterr().out and (folder / "check.html").exists()
    change(folder, "5.png", "gone.png")
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in argv])
    assert error.value.code == 1


def test_folder_without_images_is_refused(folder):
    with refused("images"):
        check_images(folder / "nowhere", folder / "tags.csv")
    (folder / "empty").mkdir()
    with refused(folder / "empty"):
        check_images(folder / "empty", folder / "tags.csv")


@pytest.mark.slow
def test_estimate_names_the_recipe(folder):
    text = estimate.estimate_training(find(folder)[0])
    assert "minutes" in text and "600 iterations" in text


def test_estimate_times_the_steps_of_a_training(folder, monkeypatch):
    """With the optimizer's part, and in mixed precision where the training has it."""
    made = []

    class Steps(StepTrainer):
        def __init__(self, model, loader, optimizer, **others):
            super().__init__(model, loader, optimizer, **others)
            made.append((optimizer, self.amp_dtype, next(self._data_loader_iter)))

        def run_step(self):
            assert get_event_storage().iter == self.iter == 150

    def keep_mixed_precision(cfg):
        cfg.MODEL.DEVICE = "cpu"

    monkeypatch.setattr(estimate, "StepTrainer", Steps)
    monkeypatch.setattr(estimate, "use_cpu_without_cuda", keep_mixed_precision)
    findings, _ = find(folder)
    assert "0 minutes (25 images" in estimate.estimate_training(findings)
    ((optimizer, dtype, batch),) = made
    assert isinstance(optimizer, torch.optim.AdamW) and dtype == torch.bfloat16
    assert len(batch) == 4
    # Of the images with masks, those that a training holds out are not trained on.
    masks = folder / "masks"
    masks.mkdir()
    for file in findings.files[:20]:
        Image.new("L", (60, 48)).save(masks / file)
    described = describe_images(folder / "images", folder / "tags.csv", masks=masks)
    trained = sum(is_known(r, len(described.classes)) for r in described.records("train"))
    findings, _ = find(folder, masks=masks)
    assert f"({trained} images" in estimate.estimate_training(findings)

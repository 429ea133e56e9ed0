# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation: its numbers, its files, and splits with gaps."""

from functools import partial

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.checkpoint import load_model
from dalnet.data.datasets.catalog import register
from dalnet.engine import Trainer
from dalnet.errors import UsageError
from dalnet.evaluation.results import read_results
from dalnet.modeling.meta_arch import DALNet


def by_name(result):
    return {(one["source"], one["protocol"]): one for one in result["measurements"]}


def test_numbers_are_those_of_the_training_evaluation(measure, checkpoint, split):
    result = measure()
    assert len(result["measurements"]) == 8
    cfg = checkpoint.cfg
    theirs = Trainer.test(cfg, load_model(cfg))
    trained = read_results(checkpoint.results)
    assert len(trained["measurements"]) == 4
    for expected in trained["measurements"]:
        one = by_name(result)[expected["source"], expected["protocol"]]
        assert one == expected
        assert one["miou"] == pytest.approx(theirs[one["source"]]["mIoU"])
        shown = {name for name, value in one["iou"].items() if value is not None}
        assert shown == {"background", "cat", "dog"}
    shared = result.keys() - {"measurements", "config"}
    assert shared == trained.keys() - {"measurements", "config"}
    assert all(result[key] == trained[key] for key in shared)
    assert len(result["weights_sha256"]) == 64


def test_crf_labels_everything_and_the_dump_can_be_read_as_masks(measure, split, tmp_path):
    dump = tmp_path / "dump"
    options = ("TEST.CRF.BI_XY_STD", 5.0, "TEST.CRF.ITERS", 2)
    result = by_name(measure(*options, protocols=["ss", "ss+crf"], dump=dump))
    assert result["pseudo_label", "ss+crf"]["labeled"] == 100
    assert result["pseudo_label", "ss"]["labeled"] < 100
    assert result["cam", "ss+crf"]["confusion"] != result["cam", "ss"]["confusion"]
    assert result["sem_seg", "ss+crf"]["crf"]["bi_xy_std"] == 5
    for name in ("sem_seg/ss", "sem_seg/ss+crf", "pseudo_label/ss", "cam/ss+crf"):
        folder = dump / name
        listed = (folder / "ImageSets/Segmentation" / f"{split.name}.txt").read_text().split()
        assert listed == ["0", "1", "2", "3"]
        for image in listed:
            assert Image.open(folder / "SegmentationClass" / f"{image}.png").size == (50, 40)
    with np.load(dump / "cam/ss/CAM/0.npz") as arrays:
        assert arrays["cams"].shape == (1, 40, 50)
    assert not (dump / "cam/ss/SegmentationClass").exists()


def test_a_split_without_masks_is_predicted_but_not_scored(measure, split, tmp_path, caplog):
    for record in split.records:
        del record["sem_seg_file_name"]
    dump = tmp_path / "dump"
    result = measure(sources=["sem_seg"], protocols=["ss"], dump=dump)
    assert (result["num_images"], result["num_scored"], result["measurements"]) == (4, 0, [])
    assert "4 of the 4 images" in caplog.text
    assert len(list((dump / "sem_seg/ss/SegmentationClass").iterdir())) == 4


def test_cams_are_scored_on_labeled_images_only(measure, checkpoint, split, tmp_path, caplog):
    run = partial(measure, "TEST.CRF.ITERS", 1, protocols=["ms+flip", "ss+crf"])
    whole, labeled = by_name(run()), split.records[:2]
    for record in split.records[2:]:
        record.update(image_labels=[], unknown_labels=[0, 1, 2])
    found = run(dump=tmp_path / "dump")
    assert f"2 of 4 images of {split.name} have no image-level label" in caplog.text
    assert [found[f"num_{name}"] for name in ("images", "scored", "labeled")] == [4, 4, 2]
    Trainer.test(checkpoint.cfg, load_model(checkpoint.cfg))
    trained = by_name(read_results(checkpoint.results))
    for name, images in (("sem_seg", "0123"), ("pseudo_label", "01")):
        folder = tmp_path / "dump" / name / "ms+flip"
        text = (folder / "ImageSets/Segmentation" / f"{split.name}.txt").read_text()
        assert text.split() == sorted(p.stem for p in folder.glob("Seg*/*")) == list(images)
    split.records[:] = labeled
    part = by_name(run())
    for key, one in by_name(found).items():
        assert one == (whole if key[0] == "sem_seg" else part)[key]
        if key in trained:
            assert one == trained[key]


def test_a_system_without_segmentation_head(measure, monkeypatch):
    kept = {name: DALNet.sources[name] for name in ("cam", "pseudo_label")}
    monkeypatch.setattr(DALNet, "sources", kept)
    result = measure(protocols=["ss"])
    assert [one["source"] for one in result["measurements"]] == ["cam", "pseudo_label"]
    with refused("sources", "'sem_seg'"):
        measure(sources=["sem_seg"])


def test_settings_that_cannot_work_are_refused(measure):
    with refused("sources", "'boxes'"):
        measure(sources=["boxes"])
    with refused("protocol", "'tta'"):
        measure(protocols=["tta"])
    with refused("TEST.CRF.BACKEND"):
        measure("TEST.CRF.BACKEND", "gpu", protocols=["ss+crf"])
    with refused("workers"):
        measure(workers=0)


def test_splits_that_cannot_be_evaluated_are_refused(measure, split):
    for record in split.records:
        record.update(image_labels=[], unknown_labels=[0, 1, 2])
    with refused(split.name, "cam, cam_inter, pseudo_label"):
        measure()
    del split.records[0]["image_labels"]
    with refused(split.name, "image-level labels"):
        measure()
    split.records[0]["image_labels"] = []
    split.records.append(split.records[0])
    with refused(split.name, "2 images"):
        measure()
    split.records.clear()
    with refused(split.name, "no images"):
        measure()


@pytest.mark.parametrize("classes", [("owl", "dog", "cat"), ("dog", "cat")])
def test_classes_of_another_order_or_number_are_matched_by_name(
    measure, checkpoint, split, classes, caplog
):
    expected = measure(protocols=["ss"])
    Trainer.test(checkpoint.cfg, load_model(checkpoint.cfg))
    trained = read_results(checkpoint.results)
    numbers = np.full(256, 255, np.uint8)
    numbers[0], numbers[1], numbers[2] = 0, 1 + classes.index("cat"), 1 + classes.index("dog")
    for record in split.records:
        path = record["sem_seg_file_name"]
        Image.fromarray(numbers[np.array(Image.open(path))]).save(path)
        record["image_labels"] = [int(numbers[c + 1]) - 1 for c in record["image_labels"]]
    register(split.name, lambda: split.records, classes)
    assert measure(protocols=["ss"]) == expected
    assert "matched by name" in caplog.text
    Trainer.test(checkpoint.cfg, load_model(checkpoint.cfg))
    assert read_results(checkpoint.results) == trained


def test_a_class_that_the_model_does_not_know_is_refused(measure, split):
    register(split.name, lambda: split.records, ("cat", "dog", "bat"))
    with refused(split.name, "'bat'"):
        measure()


def color(mask):
    return Image.fromarray(np.stack([mask, 255 - mask, mask], axis=2))


def palette(mask):
    image = Image.fromarray(mask)
    image.putpalette([value % 256 for value in range(0, 7 * 256 * 3, 7)])
    return image


def with_alpha(mask, alpha):
    return Image.merge("LA", [Image.fromarray(mask), Image.new("L", (50, 40), alpha)])


ODD_MASKS = {
    "palette": (palette, True),
    "equal channels": (lambda mask: Image.fromarray(mask).convert("RGB"), True),
    "opaque alpha": (lambda mask: with_alpha(mask, 255), True),
    "16 bits": (lambda mask: Image.fromarray(mask.astype(np.uint16)), True),
    "color": (color, False),
    "transparent": (lambda mask: with_alpha(mask, 7), False),
    "another size": (lambda mask: Image.fromarray(mask[:-1]), False),
    "turned": (lambda mask: Image.fromarray(mask.T.copy()), False),
    "another class": (lambda mask: Image.fromarray(mask + np.uint8(3)), False),
}


@pytest.mark.parametrize("kind", [*ODD_MASKS, "EXIF", "0 and 255"])
def test_training_and_evaluation_read_odd_masks_alike(measure, checkpoint, split, kind):
    cfg = checkpoint.cfg
    cfg.TEST.EVAL_CAM = False

    def outcomes():
        found = []
        for run in (
            lambda: measure(sources=["sem_seg"], protocols=["ss"]),
            lambda: Trainer.test(cfg, load_model(cfg)) and read_results(checkpoint.results),
        ):
            try:
                found.append(run()["measurements"])
            except UsageError as error:
                found.append(error.where)
        return found

    plain = outcomes()
    path = split.records[1]["sem_seg_file_name"]
    mask = np.array(Image.open(path))
    if kind == "EXIF":  # a half turn, which only an image's tag may ask for
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(mask).save(path, exif=exif)
        assert outcomes() == plain
    elif kind == "0 and 255":  # read as it is: a warning says that no mask shows the dog
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(path)
        found = outcomes()
        assert found[0] == found[1] != plain[0]
    else:
        draw, is_read = ODD_MASKS[kind]
        draw(mask).save(path)
        assert outcomes() == (plain if is_read else [path, path])
    assert plain[0] == plain[1]

# SPDX-License-Identifier: Apache-2.0
"""From files to files: what is written of images and videos, and what is left out."""

import errno
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.errors import UsageError
from dalnet.prediction import Predictor, batch
from dalnet.prediction.batch import PredictOptions, predict_files
from dalnet.prediction.files import find_inputs


@pytest.fixture
def predict(toy_checkpoint, tmp_path, monkeypatch):
    """Predicts files in the working directory into the folder "out"."""
    predictor = Predictor(toy_checkpoint)
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()

    def execute(*texts, batch=1, **options):
        inputs = find_inputs(texts, Path("out"))
        return predict_files(predictor, inputs, Path("out"), PredictOptions(**options), batch)

    execute.predictor = predictor
    return execute


@pytest.fixture
def image(make_image):
    return make_image(40, 60)


def results():
    return {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}


def test_images(predict, image, caplog):
    Image.fromarray(image).save("in/a.png")
    Path("in/sub").mkdir()
    Image.fromarray(image).save("in/sub/a.jpg")
    Path("in/sub/broken.jpg").write_bytes(b"no image")
    Path("in/notes.txt").write_text("no image either")
    with caplog.at_level(logging.INFO):
        assert predict("in", image_classes=["water lily", "moon"]) == 2
    expected = {f"a_{end}" for end in ("overlay.png", "mask.png", "cam_moon.png")}
    expected |= {"a_cam_water_lily.png"}
    nested = {f"sub/{name}" for name in expected - {"a_overlay.png"}} | {"sub/a_overlay.jpg"}
    assert results() == expected | nested
    with Image.open("out/a_mask.png") as mask:
        assert mask.mode == "P" and mask.size == (60, 40)
        np.testing.assert_array_equal(mask, predict.predictor(image).labels)
    assert "2 of 3" in caplog.text
    assert caplog.text.count("left out: ") == 1 and "broken.jpg" in caplog.text


def test_chosen_classes_only_in_overlays_and_cams(predict, image):
    Image.fromarray(image).save("in/a.png")
    labels = predict.predictor(image).labels
    values = [value for value in np.unique(labels) if value]
    assert len(values) > 1
    name = predict.predictor.class_names[values[0]]
    predict("in/a.png", classes=[name], save=["overlay", "mask", "cam"])
    np.testing.assert_array_equal(np.array(Image.open("out/a_mask.png")), labels)
    expected = predict.predictor(image).overlay([name])
    np.testing.assert_array_equal(np.array(Image.open("out/a_overlay.png")), expected)
    assert {n for n in results() if "cam" in n} == {f"a_cam_{name.replace(' ', '_')}.png"}


def test_results_of_an_earlier_run_do_not_stay(predict, image, make_image):
    Image.fromarray(image).save("in/a.png")
    Image.fromarray(image).save("in/b.png")
    write_frames(make_image, 5)
    predict("in/*", save=["mask", "cam"], image_classes=["water lily", "moon"])
    others = {"b_mask.png", "b_cam_moon.png", "b_cam_water_lily.png"}
    assert others <= results() and "walk_mask/000004.png" in results()
    Path("in/b.png").write_bytes(b"no image")
    write_frames(make_image, 3)
    predict("in/*", save=["mask", "cam"], image_classes=["moon"])
    masks = {f"walk_mask/{number:06d}.png" for number in range(3)}
    assert results() == {"a_mask.png", "a_cam_moon.png", *masks}
    Path("in/b.png").unlink()
    predict("in/a.png", save=["overlay"])  # other kinds stay
    assert results() == {"a_mask.png", "a_cam_moon.png", "a_overlay.png", *masks}


def test_a_failure_that_passes_leaves_earlier_results(predict, image, monkeypatch):
    for name in "ab":
        Image.fromarray(image).save(f"in/{name}.png")
    predict("in", save=["mask"])

    def fail(*_, **__):
        raise UsageError("memory is full")

    monkeypatch.setattr(predict.predictor, "predict_batch", fail)
    with refused(""):
        predict("in", save=["mask"])
    assert results() == {"a_mask.png", "b_mask.png"}
    Path("in/a.png").write_bytes(b"no image")
    with refused(""):
        predict("in", save=["mask"])
    assert results() == {"a_mask.png", "b_mask.png"}, "nothing was predicted at all"


def write_frames(make_image, number):
    writer = cv2.VideoWriter("in/walk.avi", cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (64, 48))
    for seed in range(number):
        writer.write(make_image(48, 64, seed))
    writer.release()


def test_video(predict, make_image):
    write_frames(make_image, 5)
    assert predict("in/walk.avi", save=["overlay", "mask"]) == 1
    masks = {f"walk_mask/{number:06d}.png" for number in range(5)}
    assert results() == {"walk_overlay.mp4", *masks}
    video = cv2.VideoCapture("out/walk_overlay.mp4")
    assert video.get(cv2.CAP_PROP_FPS) == 12.0
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert video.read()[1].shape == (48, 64, 3)
    with refused("", "walk.avi", "CAMs"):
        predict("in/walk.avi", save=["cam"])


def test_images_of_one_size_go_through_the_network_together(predict, make_image, monkeypatch):
    # Of two sizes in turn; the third is that of one image alone.
    sizes = [(40, 60), (60, 40)] * 4 + [(40, 60), (44, 44)]
    for number, size in enumerate(sizes):
        Image.fromarray(make_image(*size, number)).save(f"in/{number}.png")
    sizes_of_calls, alone = [], predict.predictor.predict_batch

    def note(images, image_classes):
        sizes_of_calls.append([image.shape[:2] for image in images])
        return alone(images, image_classes)

    monkeypatch.setattr(predict.predictor, "predict_batch", note)
    assert predict("in", batch=3, save=["mask"]) == 10
    assert all(len({*sizes}) == 1 for sizes in sizes_of_calls)
    assert sorted(map(len, sizes_of_calls)) == [1, 1, 2, 3, 3]
    for number, size in enumerate(sizes):
        expected = predict.predictor(make_image(*size, number)).labels
        np.testing.assert_array_equal(np.array(Image.open(f"out/{number}_mask.png")), expected)


def test_images_of_many_sizes_do_not_wait_for_ever(predict, make_image, monkeypatch):
    for number in range(12):
        Image.fromarray(make_image(40 + number, 40)).save(f"in/{number:02d}.png")
    group_by_size, most, read = batch._group_by_size, [], []
    monkeypatch.setattr(batch, "_read", lambda path: read.append(path) or make_image(40, len(read)))
    for count, group in enumerate(group_by_size(find_inputs(["in"], Path("out")), 2, [])):
        most.append(len(read) - count - len(group) + 1)
    assert len(most) == 12 and max(most) <= 8


def test_where_a_batch_does_not_fit_its_images_are_predicted_alone(predict, image, monkeypatch):
    for number in range(3):
        Image.fromarray(image).save(f"in/{number}.png")
    alone = predict.predictor.predict_batch

    def refuse_many(images, image_classes):
        if len(images) > 1:
            raise UsageError("too many", "image")
        return alone(images, image_classes)

    monkeypatch.setattr(predict.predictor, "predict_batch", refuse_many)
    assert predict("in", batch=3, save=["mask"]) == 3


def test_frames_in_batches_keep_their_order(predict, make_image):
    writer = cv2.VideoWriter("in/walk.avi", cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (64, 48))
    for seed in range(5):
        writer.write(make_image(48, 64, seed))
    writer.release()
    kept = []
    for size in (1, 2):
        assert predict("in/walk.avi", save=["mask"], batch=size) == 1
        kept.append([np.array(Image.open(f"out/walk_mask/{n:06d}.png")) for n in range(5)])
    np.testing.assert_array_equal(*kept)


def test_what_cannot_be_written_is_left_out(predict, image, caplog):
    for name in ("a", "m" * 250, "z"):
        Image.fromarray(image).save(f"in/{name}.png")
    Path("in", os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        assert predict("in", save=["mask"]) == 2
    assert results() == {"a_mask.png", "z_mask.png"}
    assert "mmm" in caplog.text and "udcff" in caplog.text
    assert caplog.text.encode()  # what a log file asks of it


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", "猫 ß.png".encode(), b"[1] 50%d #?&.png", b"a b..png", b"'\"<b>.png"]
)
def test_files_of_any_name_are_predicted(predict, image, name):
    path = Path("in", os.fsdecode(name))
    Image.fromarray(image).save(path)
    assert predict(str(path), save=["mask"]) == 1
    assert results() == {f"{path.stem}_mask.png"}


@pytest.mark.parametrize("suffix", ["gif", "tif", "mpo"])
def test_further_images_of_a_file_are_spoken_of(predict, image, caplog, suffix):
    frames = [Image.fromarray(np.roll(image, 9 * i, axis=0)) for i in range(3)]
    frames[0].save(f"in/a.{suffix}", save_all=True, append_images=frames[1:])
    assert predict("in", save=["mask"]) == 1
    # The other views in a camera's MPO are no images of their own.
    assert ("first of its 3 images" in caplog.text) == (suffix != "mpo")


def test_a_full_disk_ends_it(predict, image, monkeypatch):
    for name in "ab":
        Image.fromarray(image).save(f"in/{name}.png")

    def fill(path, picture):
        calls.append(path)
        raise UsageError("cannot be written", where=path) from OSError(
            errno.ENOSPC, "no space left"
        )

    calls = []
    monkeypatch.setattr(batch, "_save_image", fill)
    with refused("a_"):
        predict("in")
    assert len(calls) == 1


def test_refusals(predict, image, monkeypatch):
    Image.fromarray(image).save("in/a.png")
    Path("in/broken.jpg").write_bytes(b"no image")
    for options, where, word in (
        ({"save": ["sound"]}, "save", "'sound'"),
        ({"batch": 0}, "batch", "0"),
        ({"classes": ["moon", "unicorn"]}, "classes", "'unicorn'"),
        ({"image_classes": ["unicorn"]}, "image_classes", "'unicorn'"),
    ):
        with refused(where, word):
            predict("in", **options)
    with refused("", "broken.jpg"):
        predict("in/broken.jpg")
    with monkeypatch.context() as patch, refused("save"):
        patch.setattr(predict.predictor, "has_cams", False)
        predict("in", save=["cam"])
    assert not Path("out").exists()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "predict_batch", interrupt)
    with pytest.raises(UsageError, match="interrupted"):
        predict("in")

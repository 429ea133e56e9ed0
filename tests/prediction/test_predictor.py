# SPDX-License-Identifier: Apache-2.0
"""One photograph as an evaluation sees it; and demo/predict.py from files to files."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from dalnet.data import DALNetMapper
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.engine.launch import one_sentence_errors
from dalnet.prediction.predictor import Predictor
from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(tiny_cfg, tmp_path):
    """A config that names the checkpoint of a tiny network whose labels vary."""
    # Whoever predicts has no files of text tower and encoder nor, perhaps, a GPU.
    tiny_cfg.MODEL.CLIP.SOURCE = "checkpoint"
    torch.manual_seed(0)
    model = build_model(tiny_cfg)
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    tiny_cfg.MODEL.VIT.WEIGHTS, tiny_cfg.MODEL.CLIP.WEIGHTS = "gone.pth", "gone.pt"
    tiny_cfg.MODEL.CLIP.SOURCE = "tower"
    if not torch.cuda.is_available():
        tiny_cfg.MODEL.DEVICE = "cuda"
    return tiny_cfg


def make_photo(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    large = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (255 * large[0]).byte().permute(1, 2, 0).numpy().copy()


@pytest.mark.parametrize("crf", [False, True])
def test_same_result_as_the_evaluation(trained, tmp_path, crf):
    trained.TEST.MULTI_SCALE.ENABLED = True
    trained.TEST.CRF.ENABLED, trained.TEST.CRF.ITERS = crf, 2
    trained.TEST.MULTI_SCALE.SCALES = trained.MODEL.DALNET.CAM.SCALES
    photo = make_photo(50, 41)
    Image.fromarray(photo).save(tmp_path / "x.png")
    predictor = Predictor(trained)
    record = {"file_name": str(tmp_path / "x.png"), "image_id": "x", "image_labels": [2, 0]}
    with torch.no_grad():
        expected = predictor._model([DALNetMapper(trained, False)(record)])[0]

    names = predictor.class_names
    result = predictor(photo, [names[3], names[1]])
    torch.testing.assert_close(result["scores"], expected["sem_seg"])
    assert result["labels"].dtype == np.uint8 and result["labels"].shape == (50, 41)
    np.testing.assert_array_equal(result["labels"], expected["sem_seg"].argmax(0).numpy())
    assert len(np.unique(result["labels"])) > 1
    assert list(result["cams"]) == [names[3], names[1]]
    for label in (3, 1):
        cam = result["cams"][names[label]]
        np.testing.assert_allclose(cam, expected["cam"][label - 1].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("photos_elsewhere_train",), "DATASETS.TRAIN names the unknown data set 'photos_else"),
        ((), "DATASETS.TRAIN is empty"),
        (("voc_2012_sem_seg_train",), "NUM_CLASSES is 11, but voc_2012_sem_seg_train has 21"),
    ],
)
def test_data_sets_that_name_other_classes_or_none(trained, names, part):
    trained.DATASETS.TRAIN = names
    with pytest.raises(UsageError, match=part):
        Predictor(trained)


def test_protocol_and_found_classes(trained):
    photo = make_photo(40, 40)
    single, several = Predictor(trained), Predictor(trained, Protocol.parse("ms+flip"))
    assert str(single.protocol) == "ss" and str(several.protocol) == "ms+flip"
    result = single(photo)
    assert not torch.allclose(result["scores"], several(photo)["scores"])
    found = [single.class_names[i] for i in np.unique(result["labels"]) if i]
    assert found and list(result["cams"]) == found
    assert single(photo, ())["cams"] == {}


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (300, 4)])
def test_extreme_sizes(trained, size):
    trained.INPUT.MIN_SIZE_TEST = 0
    result = Predictor(trained)(np.full((*size, 3), 90, np.uint8))
    assert result["labels"].shape == size
    assert result["scores"].shape == (11, *size)


def test_refusals(trained, monkeypatch):
    trained.INPUT.MAX_SIZE_TEST = 64
    predictor = Predictor(trained)
    with pytest.raises(UsageError, match="500 x 1 pixels.*INPUT.MIN_SIZE_TEST"):
        predictor(make_photo(1, 500))
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(UsageError, match="uint8"):
            predictor(wrong)
    with pytest.raises(UsageError, match="no class 'unicorn'; it knows goldfish"):
        predictor(make_photo(8, 8), ["unicorn"])

    def exhaust(pixels):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predictor._model, "passes", exhaust)
    with pytest.raises(UsageError, match="9 x 8 pixels does not fit into memory"):
        predictor(make_photo(8, 9))
    trained.MODEL.WEIGHTS = ""
    with pytest.raises(UsageError, match="MODEL.WEIGHTS"):
        Predictor(trained)


@pytest.fixture
def program(trained, tmp_path, monkeypatch):
    """Runs demo/predict.py in a folder that has no data set; returns its exit status."""
    spec = importlib.util.spec_from_file_location("predict", ROOT / "demo" / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = tmp_path / "config.yaml"
    config.write_text(trained.dump())
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)

    def execute(*arguments):
        argv = ["predict.py", "--config-file", str(config), "--output", "out", *arguments]
        monkeypatch.setattr("sys.argv", [*argv, "--opts", "MODEL.WEIGHTS", "model.pth"])
        try:
            with one_sentence_errors():
                module.main(module.parse_args())
        except SystemExit as error:
            return error.code
        return 0

    (tmp_path / "in" / "sub").mkdir(parents=True)
    return execute


def results():
    files = (path for path in Path("out").rglob("*") if path.is_file())
    return {str(path.relative_to("out")) for path in files if path.parts[1] != "log"}


def test_pictures_to_files(program, capsys):
    photo = make_photo(40, 60)
    Image.fromarray(photo).save("in/a.png")
    Image.fromarray(photo).save("in/sub/a.jpg")
    Path("in/sub/broken.jpg").write_bytes(b"no picture")
    Path("in/notes.txt").write_text("no picture either")
    assert program("--input", "in", "--cam-classes", "water lily,moon") == 0
    expected = {f"a_{end}" for end in ("overlay.png", "mask.png", "cam_moon.png")}
    expected |= {"a_cam_water_lily.png"}
    nested = {f"sub/{name}" for name in expected - {"a_overlay.png"}} | {"sub/a_overlay.jpg"}
    assert results() == expected | nested
    assert {path.name for path in Path("out/log").iterdir()} >= {"config.yaml", "log.txt"}
    with Image.open("out/a_mask.png") as mask:
        assert mask.mode == "P" and mask.size == (60, 40)
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert len(np.unique(mask)) > 1
    overlay = np.array(Image.open("out/a_overlay.png"))
    assert overlay.shape[1] >= 60 and overlay.shape[0] > 40
    assert (overlay[:40, :60] != photo).any()
    log = Path("out/log/log.txt").read_text()
    assert "2 of 3 input(s) predicted" in log
    assert log.count("left out: ") == 1 and "broken.jpg cannot be read" in log


def test_chosen_classes_only_in_the_overlay(program):
    photo = make_photo(40, 60)
    Image.fromarray(photo).save("in/a.png")
    program("--input", "in/a.png")
    labels = np.array(Image.open("out/a_mask.png"))
    values = [value for value in np.unique(labels) if value]
    assert len(values) > 1
    keep, names = values[0], ["background", *TOY_CLASSES]
    program("--input", "in/a.png", "--classes", names[keep], "--save", "overlay,mask,cam")
    np.testing.assert_array_equal(np.array(Image.open("out/a_mask.png")), labels)
    overlay = np.array(Image.open("out/a_overlay.png"))[:40, :60]
    kept = cv2.dilate((labels == keep).astype(np.uint8), np.ones((3, 3))) > 0
    np.testing.assert_array_equal(overlay[~kept], photo[~kept])
    assert (overlay[labels == keep] != photo[labels == keep]).any()
    assert {n for n in results() if "cam" in n} == {f"a_cam_{names[keep].replace(' ', '_')}.png"}


def write_film(path, size=(64, 48), frames=5, rate=12.0):
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), codec, rate, size)
    for seed in range(frames):
        writer.write(make_photo(size[1], size[0], seed))
    writer.release()


def test_film(program):
    write_film("in/walk.avi")
    assert program("--input", "in/walk.avi", "--save", "overlay,mask") == 0
    masks = {f"walk_mask/{number:06d}.png" for number in range(5)}
    assert results() == {"walk_overlay.mp4", *masks}
    film = cv2.VideoCapture("out/walk_overlay.mp4")
    assert film.get(cv2.CAP_PROP_FPS) == 12.0
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert film.read()[1].shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--input", "in"], "in holds no file"),
        (["--input", "in/*.png"], "in/*.png holds no file"),
        (["--input", "gone.jpg"], "gone.jpg does not exist"),
        (["--input", "broken.jpg"], "none of 1 input(s) could be predicted"),
        (["--video-input", "broken.film"], "cannot be read by OpenCV"),
        (["--input", "broken.jpg", "--save", "sound"], "'sound' cannot be saved"),
        (["--video-input", "broken.jpg", "--save", "cam"], "Films have no CAMs"),
        (["--input", "broken.jpg", "--classes", "moon,unicorn"], "no class 'unicorn'"),
        (["--input", "broken.jpg", "--protocol", "best"], "'best' is no protocol"),
    ],
)
def test_bad_input_is_one_sentence(program, capfd, arguments, part):
    for name in ("broken.jpg", "broken.film"):
        Path(name).write_bytes(b"no picture")
    assert program(*arguments) == 1
    errors = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0]
    assert not Path("out").exists() or not results()


def test_interrupt_is_one_sentence(program, monkeypatch, capfd):
    Image.fromarray(make_photo(40, 60)).save("in/a.png")

    def interrupt(self, photo, cam_classes=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "__call__", interrupt)
    assert program("--input", "in") == 1
    assert "error: interrupted" in capfd.readouterr().err

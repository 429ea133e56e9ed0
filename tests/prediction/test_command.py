# SPDX-License-Identifier: Apache-2.0
"""The command line, with and without a config, through demo/predict.py."""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from dalnet.errors import one_sentence_errors
from dalnet.prediction import command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(checkpoint, tiny_cfg, make_image, tmp_path, monkeypatch):
    """Runs demo/predict.py where there is an image but no data set; returns its exit status."""
    spec = importlib.util.spec_from_file_location("predict", ROOT / "demo" / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_image(40, 60)).save("a.png")
    Path("config.yaml").write_text(tiny_cfg.dump())
    torch.save({"model": torch.load(checkpoint, weights_only=True)["model"]}, "old.pth")
    # As they are before a log is opened.
    for name, value in (("handlers", []), ("propagate", True)):
        monkeypatch.setattr(logging.getLogger("dalnet"), name, value)

    def execute(*arguments):
        monkeypatch.setattr("sys.argv", ["predict.py", "--output", "out", *arguments])
        try:
            with one_sentence_errors():
                command.run(module.parse_args())
        except SystemExit as error:
            return error.code
        return 0

    return execute


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weights", "run/model_final.pth", "INPUT.MIN_SIZE_TEST", "40"),
        ("--weights", "old.pth", "--config", "config.yaml", "INPUT.MIN_SIZE_TEST", "40"),
        (
            *("--config-file", "config.yaml"),
            *("--opts", "MODEL.WEIGHTS", "old.pth", "INPUT.MIN_SIZE_TEST", "40"),
        ),
    ],
)
def test_model_and_keys(program, arguments):
    assert (
        program("--input", "a.png", "--save", "mask,cam", "--cam-classes", "moon", *arguments) == 0
    )
    names = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}
    assert names == {"a_mask.png", "a_cam_moon.png", "log/config.yaml", "log/log.txt"}
    assert "MIN_SIZE_TEST: 40" in Path("out/log/config.yaml").read_text()
    assert "1 of 1" in Path("out/log/log.txt").read_text()


def test_protocol(program):
    masks = []
    for protocol in ("ss", "ms+flip"):
        assert program("--weights", "run", "--input", "a.png", "--protocol", protocol) == 0
        masks.append(Path("out/a_mask.png").read_bytes())
    assert masks[0] != masks[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--input", "gone.jpg", "--weights", "run"], "gone.jpg"),
        (["--input", "a.png"], "--weights"),
        (["--input", "a.png", "--weights", "gone.pth"], "gone.pth"),
        (["--input", "a.png", "--weights", "old.pth"], "old.pth"),
        (["--input", "config.yaml", "--weights", "run"], "config.yaml"),
        (["--webcam", "99", "--weights", "run"], "Camera 99"),
        (["--input", "a.png", "--weights", "run", "--protocol", "best"], "'best'"),
        (["--input", "a.png", "--weights", "run", "INPUT.NO_KEY", "1"], "INPUT.NO_KEY"),
    ],
)
def test_bad_input_is_one_sentence(program, capfd, arguments, part):
    assert program(*arguments) == 1
    errors = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0]
    assert not list(Path().glob("out/*.*"))

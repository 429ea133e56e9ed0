# SPDX-License-Identifier: Apache-2.0
"""Predicting from the command line, with and without a config, through demo/predict.py."""

import logging
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(toy_checkpoint, tiny_cfg, make_image, tmp_path, monkeypatch):
    """Runs demo/predict.py where there is an image but no data set; returns its exit status."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(make_image(40, 60)).save("a.png")
    Path("config.yaml").write_text(tiny_cfg.dump())
    torch.save({"model": torch.load(toy_checkpoint, weights_only=True)["model"]}, "old.pth")
    # As they are before a log is opened.
    for name, value in (("handlers", []), ("propagate", True)):
        monkeypatch.setattr(logging.getLogger("dalnet"), name, value)

    def execute(*arguments):
        monkeypatch.setattr("sys.argv", ["predict.py", "--output", "out", *arguments])
        try:
            runpy.run_path(str(ROOT / "demo" / "predict.py"), run_name="__main__")
        except SystemExit as error:
            return error.code
        return 0

    return execute


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weights", "run/model_final.pth"),
        ("--weights", "old.pth", "--config", "config.yaml"),
        ("--config", "config.yaml", "MODEL.WEIGHTS", "old.pth"),
    ],
)
def test_model_and_keys(program, arguments):
    own = ("--input", "a.png", "--save", "mask,cam", "--image-classes", "moon")
    assert program(*own, *arguments, "INPUT.MIN_SIZE_TEST", "40") == 0
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
        (["--input", "a.png"], "--weights: no model is named"),
        (["--input", "a.png", "--weights", "gone.pth"], "gone.pth"),
        (["--input", "a.png", "--weights", "old.pth"], "old.pth"),
        (["--input", "config.yaml", "--weights", "run"], "config.yaml"),
        (["--webcam", "99", "--weights", "run"], "camera 99"),
        (["--input", "a.png", "--weights", "run", "--protocol", "best"], "'best'"),
        (["--input", "a.png", "--weights", "run", "INPUT.NO_KEY", "1"], "INPUT.NO_KEY"),
    ],
)
def test_bad_input_is_one_sentence(program, capfd, arguments, part):
    assert program(*arguments) == 1
    errors = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0]
    assert not list(Path().glob("out/*.*"))


def test_names_that_are_no_text_in_the_c_locale(program, tmp_path):
    output, folder = os.fsdecode(b"out\xff"), Path(os.fsdecode(b"in\xff"))
    folder.mkdir()
    shutil.copy("a.png", folder / "猫.png")
    (folder / "broken 猫.png").touch()
    command = [sys.executable, ROOT / "demo" / "predict.py", "--weights", "run", "--input", folder]
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--output", output], env={**os.environ, **c}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr
    assert Path(output, "猫_mask.png").is_file()
    log = Path(output, "log", "log.txt").read_text(encoding="utf-8")
    assert "1 of 2" in log and "left out" in log

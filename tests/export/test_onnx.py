# SPDX-License-Identifier: Apache-2.0
"""An ONNX file gives what the model gives."""

import json

import numpy as np
import pytest
from PIL import Image

from dalnet.cli import main

pytestmark = pytest.mark.extra


def test_exported_files_agree_with_the_model_at_any_size(voc_model, tmp_path):
    from dalnet.export.onnx import OnnxSegmentor

    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate(((40, 48), (64, 24), (33, 50))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
            tmp_path / "images" / f"{number}.png"
        )
    out = tmp_path / "out"
    argv = ["--output", out, "--format", "onnx,onnx-int8", "--images", tmp_path / "images"]
    main(["export", "--weights", str(voc_model.weights), *map(str, argv)])
    parity = json.loads((out / "parity.json").read_text())
    assert parity["onnx"]["largest_difference"] < 1e-3
    assert parity["onnx"]["same_label"] >= 0.999
    assert parity["onnx-int8"]["largest_difference"] < 0.1
    exported = OnnxSegmentor(out / "model.onnx")
    assert exported.class_names[:2] == ["background", "aeroplane"]
    assert exported(np.zeros((1, 3, 40, 24), np.float32)).shape == (1, 21, 40, 24)

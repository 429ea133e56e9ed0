# SPDX-License-Identifier: Apache-2.0
"""An ONNX file gives what the model gives."""

import json

import numpy as np
import pytest
from PIL import Image

from dalnet.cli import main
from dalnet.data.datasets.voc import VOC_CLASSES

pytestmark = pytest.mark.extra


SIZES = ((40, 48), (64, 24), (33, 50))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def export(model, out, *arguments):
    argv = ["--output", out, "--format", "onnx,onnx-int8", *arguments]
    main(["export", "--weights", str(model.weights), *map(str, argv)])
    return json.loads((out / "parity.json").read_text())


def test_exported_files_agree_with_the_model_at_any_size(voc_model, images, tmp_path):
    import onnxruntime

    from dalnet.export.onnx import OnnxSegmentor

    out = tmp_path / "out"
    parity = export(voc_model, out, "--images", images)
    forms = parity["forms"]
    assert parity["num_images"] == 3 and list(forms) == ["pytorch", "onnx", "onnx-int8"]
    assert forms["onnx"]["logits_difference"] < 1e-3
    assert forms["onnx"]["same_label"] >= 0.999
    assert 0 < forms["onnx-int8"]["logits_difference"] < 0.1
    assert all(one["images_per_second"] > 0 and "miou" not in one for one in forms.values())
    exported = OnnxSegmentor(out / "model.onnx")
    assert exported.class_names[:2] == ["background", "aeroplane"]
    for name in ("model.onnx", "model_int8.onnx"):
        session = onnxruntime.InferenceSession(str(out / name), providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        assert "RGB, 0 to 255, not normalized" in about["input"]
    assert exported(np.zeros((1, 3, 40, 24), np.float32)).shape == (1, 21, 40, 24)


def test_miou_is_that_of_the_label_maps_beside_the_images(voc_model, images, tmp_path, capsys):
    masks, predicted = tmp_path / "masks", tmp_path / "predicted"
    masks.mkdir()
    main(
        ["predict", "--weights", str(voc_model.weights), "--input", str(images), "--save", "mask"]
        + ["--output", str(predicted)]
    )
    labels = {n: np.array(Image.open(predicted / f"{n}_mask.png")) for n in range(2)}
    names = ["background", *VOC_CLASSES]
    meta = {"label_map": {str(100 + v): names[v] for v in range(len(names))}}
    (masks / "dataset_meta.json").write_text(json.dumps(meta))
    for number, one in labels.items():
        Image.fromarray((100 + one).astype(np.uint8)).save(masks / f"{number}.png")
    parity = export(voc_model, tmp_path / "out", "--images", images, "--masks", masks)
    assert parity["num_images"] == 2
    for form, least in (("pytorch", 90), ("onnx", 90), ("onnx-int8", 50)):
        assert parity["forms"][form]["miou"] > least
    assert "mIoU" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export(voc_model, tmp_path / "b", "--images", images, "--masks", predicted)
    assert str(images) in capsys.readouterr().err and not (tmp_path / "b/model.onnx").exists()

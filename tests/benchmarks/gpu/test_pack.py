# SPDX-License-Identifier: Apache-2.0
"""The folder of real images to carry along, here of generated ones."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.gpu.generated import write_voc
from benchmarks.gpu.pack import TRAIN, VAL, main


@pytest.fixture
def pack(tmp_path, monkeypatch):
    write_voc(tmp_path, train=3, val=2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    weights = {"blocks.0.norm1.weight": torch.linspace(-3, 3, 50), "pos_embed": torch.ones(1, 2, 3)}
    save_file(weights, tmp_path / "vit.safetensors")
    output = tmp_path / "out"
    for name in ("names.npy", "names.txt"):
        (tmp_path / name).touch()
    more = ["--train", "2", "--val", "1", "--texts", str(tmp_path / "names.npy")]
    main(["--weights", str(tmp_path / "vit.safetensors"), "--output", str(output), *more])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(output))
    return output


def test_it_is_a_data_set_with_labels_and_no_training_masks(pack):
    train, val = DatasetCatalog.get(TRAIN), DatasetCatalog.get(VAL)
    assert [record["image_id"] for record in train] == ["000000", "000001"]
    assert [record["image_labels"] for record in train] == [[7], [9]]  # cat, cow
    assert [record["image_id"] for record in val] == ["000003"]
    files = {str(path.relative_to(pack)) for path in pack.rglob("*") if path.is_file()}
    assert files == {
        *("vit.safetensors", "names.npy", "names.txt"),
        "VOC2012/image_tags.json",
        *(f"VOC2012/ImageSets/Segmentation/{split}.txt" for split in ("train_aug", "val")),
        *(f"VOC2012/JPEGImages/{name}.jpg" for name in ("000000", "000001", "000003")),
        "VOC2012/SegmentationClass/000003.png",
    }
    assert set(json.loads((pack / "VOC2012/image_tags.json").read_text())) == {
        "000000",
        "000001",
        "000003",
    }


def test_images_and_masks_have_256_pixels_on_the_short_side(pack, tmp_path):
    record = DatasetCatalog.get(VAL)[0]
    image, mask = Image.open(record["file_name"]), Image.open(record["sem_seg_file_name"])
    assert image.size == mask.size == (341, 256)
    large = np.array(Image.open(tmp_path / "VOC2012/SegmentationClass/000003.png"))
    assert set(np.unique(np.array(mask))) == set(np.unique(large)) == {0, 8}, "no mixed classes"
    original = tmp_path / "VOC2012" / "JPEGImages" / "000003.jpg"
    assert (pack / "VOC2012/JPEGImages/000003.jpg").stat().st_size < original.stat().st_size / 2


def test_weights_are_halved(pack, tmp_path):
    state, before = (load_file(folder / "vit.safetensors") for folder in (pack, tmp_path))
    assert {value.dtype for value in state.values()} == {torch.float16}
    for key, value in before.items():
        torch.testing.assert_close(state[key].float(), value, rtol=1e-3, atol=1e-3)

# SPDX-License-Identifier: Apache-2.0
"""Make the folder of real images, masks and weights that a GPU machine is given to train on.

The images are those of VOC 2012 below DETECTRON2_DATASETS, made smaller, the weights those of an
encoder in half precision. The folder is ignored by git: its images are not ours to give away.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image
from safetensors.torch import load_file, save_file

import dalnet.data  # noqa: F401  registers the data sets
from dalnet.errors import one_sentence_errors

TRAIN, VAL = "voc_2012_sem_seg_train_aug", "voc_2012_sem_seg_val"
_SIDE, _QUALITY = 256, 80


def main(argv: Sequence[str] | None = None) -> None:
    """Make the folder that the arguments name, and print its size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu pack", description=__doc__)
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        help="safetensors of a timm vision transformer, named after it",
    )
    parser.add_argument("--texts", type=Path, help="text embeddings, X.npy with X.txt beside it")
    parser.add_argument("--output", type=Path, default=Path("gpu_pack"))
    parser.add_argument("--train", type=int, default=1200, help="images; default: %(default)s")
    parser.add_argument("--val", type=int, default=200, help="images; default: %(default)s")
    args = parser.parse_args(argv)
    with one_sentence_errors():
        make_pack(args.output, args.weights, args.train, args.val)
        if args.texts:
            for path in (args.texts, args.texts.with_suffix(".txt")):
                shutil.copy(path, args.output)
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {size / 2**20:.1f} MiB")


def make_pack(output: Path, weights: Path, train: int, val: int) -> None:
    """Write the first ``train`` and ``val`` images of the two splits and the halved ``weights``."""
    folder = output / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = MetadataCatalog.get(TRAIN).stuff_classes[1:]
    tags = {}
    for split, dataset, count in (("train_aug", TRAIN, train), ("val", VAL, val)):
        records = DatasetCatalog.get(dataset)[:count]
        for record in records:
            name = record["image_id"]
            tags[name] = [names[index] for index in record["image_labels"]]
            image = Image.fromarray(read_image(record["file_name"], "RGB"))
            size = [round(side * _SIDE / min(image.size)) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC)
            image.save(folder / "JPEGImages" / f"{name}.jpg", quality=_QUALITY)
            if split == "val":
                mask = Image.fromarray(read_image(record["sem_seg_file_name"]))
                mask = mask.resize(size, Image.Resampling.NEAREST)
                mask.save(folder / "SegmentationClass" / f"{name}.png")
        lines = [record["image_id"] for record in records]
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.write_text("\n".join(lines) + "\n")
    (folder / "image_tags.json").write_text(json.dumps(tags))
    state = {key: value.half().contiguous() for key, value in load_file(weights).items()}
    save_file(state, output / weights.name)

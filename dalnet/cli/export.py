# SPDX-License-Identifier: Apache-2.0
"""Write a trained model in another format: one safetensors file, ONNX, or ONNX in 8 bits.

    dalnet export --weights output/pets --output exported
    dalnet export --weights output/pets --output exported --format onnx,onnx-int8 --images holiday/

bundle: weights, classes and config in one safetensors file, with a model card. It is used like a
checkpoint; --push OWNER/NAME publishes it on the Hugging Face hub.
onnx: takes images whose sides are multiples of the patch size; one scale, no CRF. onnx-int8 has
8-bit weights. Both need: pip install "dalnet[export]".
With --images the ONNX files run in turn with the model on images of that folder: a table, also in
parity.json, shows images a second, the largest difference of a logit, the pixels of the same label
and, with --masks, the mIoU.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from detectron2.data import transforms as T
from tabulate import tabulate
from tqdm import tqdm

from dalnet.checkpoint import config_for, find_checkpoint, load_model
from dalnet.checkpoint.files import BUNDLE_FILE
from dalnet.data.augmentation import resize_image
from dalnet.data.datasets.tagged import match_masks
from dalnet.data.image_files import find_images
from dalnet.data.image_io import read_image, read_mask
from dalnet.data.mapper import build_resize
from dalnet.documents import write_json
from dalnet.errors import UsageError
from dalnet.export.bundle import BUNDLE_FILES, push_to_hub, write_bundle
from dalnet.labeling.mask_values import convert_mask, read_mask_values
from dalnet.modeling.meta_arch import WeakSegmentor

from .arguments import add_weights, split_list

_FORMATS = ("bundle", "onnx", "onnx-int8")
_ONNX_FILES = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
_PARITY_FILE = "parity.json"
_USUAL_IMAGES = 16
# Heading and format of each number of the comparison.
_COLUMNS = {
    "images_per_second": ("images/s", ".2f"),
    "miou": ("mIoU %", ".2f"),
    "logits_difference": ("largest difference of a logit", ".2g"),
    "same_label": ("pixels of the same label", ".3%"),
    "megabytes": ("MB", ".1f"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_weights(parser)
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add(
        "--format",
        default="bundle",
        metavar="NAME,...",
        help=f"one or several of {', '.join(_FORMATS)}; default: %(default)s",
    )
    add("--images", type=Path, metavar="DIR", help="folder of images to compare the ONNX files on")
    text = "label maps (PNG) of these images, called like them; only images with one are compared"
    add("--masks", type=Path, metavar="DIR", help=text)
    text = f"images to compare on; default: {_USUAL_IMAGES}, or all that have a mask"
    add("--num-images", type=int, metavar="N", help=text)
    add(
        "--push",
        default="",
        metavar="OWNER/NAME",
        help="publish the bundle on the Hugging Face hub",
    )
    add("--overwrite", action="store_true", help="replace what the folder holds")


def run(args: argparse.Namespace) -> None:
    """Export what the arguments say.

    Raises:
        UsageError: there is no model, an unknown format, or the folder is not empty.
    """
    formats = split_list(args.format)
    if unknown := set(formats) - {*_FORMATS}:
        raise UsageError(
            f"there is no format {min(unknown)!r}", "format", f"use {', '.join(_FORMATS)}"
        )
    if not args.weights:
        raise UsageError("there is no model to export", "weights", "name its checkpoint")
    if args.output.is_dir() and any(args.output.iterdir()) and not args.overwrite:
        raise UsageError("it is not empty", args.output, "name another folder, or overwrite it")
    in_onnx = [name for name in formats if name != "bundle"]
    _refuse_unread(args, bool(in_onnx))
    weights = find_checkpoint(args.weights)
    # Before the export, which takes longer.
    pairs = _choose_images(args) if args.images else []
    written: list[str] = []
    if "bundle" in formats or args.push:
        write_bundle(weights, args.output)
        written += BUNDLE_FILES
    if in_onnx:
        model, files = _write_onnx(weights, args.output, "onnx-int8" in formats)
        written += [path.name for path in files.values()]
    # Before the comparison, which may fail: what is left would seem to belong to the new files.
    _remove_earlier(args.output, weights, written)
    if pairs:
        _compare(weights, model, files, pairs, args)
        written.append(_PARITY_FILE)
    if args.push:
        print(push_to_hub(args.output, args.push, written))
    print(f"written: {args.output}")


def _refuse_unread(args: argparse.Namespace, in_onnx: bool) -> None:
    """Refuse arguments that nothing would read, and a number of images below 1."""
    for name in ("images", "masks", "num_images"):
        if getattr(args, name) is not None and not (in_onnx and args.images):
            hint = "name --images too" if in_onnx else "choose --format onnx"
            raise UsageError("it is of the comparison of ONNX files on images", name, hint)
    if args.num_images is not None and args.num_images < 1:
        raise UsageError(f"it is {args.num_images}", "num_images", "use 1 or more")


def _remove_earlier(folder: Path, weights: Path, written: Sequence[str]) -> None:
    """Remove what an earlier export has left and this one has not written.

    The bundle stays where it is what has been exported.
    """
    names = {*_ONNX_FILES.values(), _PARITY_FILE}
    if (folder / BUNDLE_FILE).is_file() and weights.resolve() != (folder / BUNDLE_FILE).resolve():
        names |= {*BUNDLE_FILES}
    for name in names - {*written}:
        (folder / name).unlink(missing_ok=True)


def _write_onnx(
    weights: Path, folder: Path, in_8_bits: bool
) -> tuple[WeakSegmentor, dict[str, Path]]:
    """Write the ONNX files; return the model, on the CPU, and the files by format."""
    onnx = _import_onnx()
    cfg = config_for(weights, opts=["MODEL.DEVICE", "cpu"])
    model = load_model(cfg).eval()
    files = {"onnx": folder / _ONNX_FILES["onnx"]}
    onnx.export_onnx(model, files["onnx"], cfg.INPUT.MIN_SIZE_TEST)
    if in_8_bits:
        files["onnx-int8"] = folder / _ONNX_FILES["onnx-int8"]
        onnx.quantize(files["onnx"], files["onnx-int8"])
    return model, files


def _import_onnx() -> ModuleType:
    try:
        return import_module("dalnet.export.onnx")
    except ModuleNotFoundError as error:
        hint = 'run: pip install "dalnet[export]"'
        raise UsageError(f"{error.name} is not installed", "format", hint) from error


def _compare(
    weights: Path,
    model: WeakSegmentor,
    files: Mapping[str, Path],
    pairs: Sequence[tuple[Path, Path | None]],
    args: argparse.Namespace,
) -> None:
    """Run the ONNX files in turn with the model on images, and report what differs."""
    resize = build_resize(config_for(weights), is_train=False)
    values = read_mask_values(args.masks, model.class_names[1:]) if args.masks else None
    bar = tqdm(pairs, unit="image", disable=None)
    loaded = (_load(image, mask, resize, values, len(model.class_names)) for image, mask in bar)
    result = _import_onnx().compare(model, files, loaded)
    _report(result, len(pairs), args.output / _PARITY_FILE)


def _choose_images(args: argparse.Namespace) -> list[tuple[Path, Path | None]]:
    """Return the images to compare on, each with its mask if there are masks."""
    names = find_images(args.images)
    masks = match_masks(args.masks, names).by_image if args.masks else {}
    chosen = [name for name in names if not args.masks or name in masks]
    if not chosen:
        what = "there is no image with a mask in it" if args.masks else "there is no image in it"
        raise UsageError(what, args.images, "name another folder")
    count = args.num_images or (len(chosen) if args.masks else _USUAL_IMAGES)
    return [(args.images / name, masks.get(name)) for name in chosen[:count]]


def _load(
    path: Path,
    mask: Path | None,
    resize: T.Augmentation,
    values: Mapping[int, int] | None,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image, resized, and its label map at the image's own size, if it has one."""
    image = read_image(str(path))
    truth = None
    if mask is not None and values is None:
        truth = read_mask(str(mask), image.shape[:2], num_classes)
    elif mask is not None and values is not None:
        truth = convert_mask(mask, values, image.shape[:2])
    return resize_image(image, resize), truth


def _report(result: Mapping[str, Mapping[str, float]], num_images: int, path: Path) -> None:
    """Print the comparison as a table and write it as JSON."""
    threads = torch.get_num_threads()
    content = {"num_images": num_images, "threads": threads, "forms": result}
    write_json(path, content)
    keys = [key for key in _COLUMNS if any(key in one for one in result.values())]
    rows = [
        [name, *(format(one[key], _COLUMNS[key][1]) if key in one else "" for key in keys)]
        for name, one in result.items()
    ]
    print(f"{num_images} images, {threads} threads:")
    heads = ["", *(_COLUMNS[key][0] for key in keys)]
    print(tabulate(rows, heads, tablefmt="github", disable_numparse=True))

# SPDX-License-Identifier: Apache-2.0
"""Write a trained model in another format: one safetensors file, ONNX, or ONNX in 8 bits.

    dalnet export --weights output/pets --output exported
    dalnet export --weights output/pets --output exported --format onnx,onnx-int8 --images holiday/

bundle: weights, classes and config in one safetensors file, with a model card. It is used like a
checkpoint; --push OWNER/NAME publishes it on the Hugging Face hub.
onnx: takes images whose sides are multiples of the patch size; one scale, no CRF. onnx-int8 has
8-bit weights. Both need: pip install "dalnet[export]".
With --images the ONNX files are compared with the model on up to 16 images of that folder; the
differences and times go to parity.json.
"""

import argparse
import json
from pathlib import Path

from dalnet.checkpoint import config_for, find_checkpoint, load_model
from dalnet.data.augmentation import resize_image
from dalnet.data.image_files import find_images
from dalnet.data.image_io import read_image
from dalnet.data.mapper import build_resize
from dalnet.errors import UsageError
from dalnet.export.bundle import push_to_hub, write_bundle
from dalnet.io import atomic_write

from .arguments import add_weights

_FORMATS = ("bundle", "onnx", "onnx-int8")
_MAX_IMAGES = 16


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
    formats = [name for name in args.format.split(",") if name]
    if unknown := set(formats) - {*_FORMATS}:
        raise UsageError(
            f"there is no format {min(unknown)!r}", "format", f"use {', '.join(_FORMATS)}"
        )
    if not args.weights:
        raise UsageError("there is no model to export", "weights", "name its checkpoint")
    if args.output.is_dir() and any(args.output.iterdir()) and not args.overwrite:
        raise UsageError("it is not empty", args.output, "name another folder, or overwrite it")
    weights = find_checkpoint(args.weights)
    if "bundle" in formats or args.push:
        write_bundle(weights, args.output)
    if {"onnx", "onnx-int8"} & {*formats}:
        _write_onnx(weights, args.output, "onnx-int8" in formats, args.images)
    if args.push:
        print(push_to_hub(args.output, args.push))
    print(f"written: {args.output}")


def _write_onnx(weights: Path, output: Path, in_8_bits: bool, images: Path | None) -> None:
    try:
        from dalnet.export.onnx import compare, export_onnx, quantize
    except ModuleNotFoundError as error:
        hint = 'run: pip install "dalnet[export]"'
        raise UsageError(f"{error.name} is not installed", "format", hint) from error

    cfg = config_for(weights, opts=["MODEL.DEVICE", "cpu"])
    model = load_model(cfg).eval()
    files = {"onnx": output / "model.onnx"}
    export_onnx(model, files["onnx"], cfg.INPUT.MIN_SIZE_TEST)
    if in_8_bits:
        files["onnx-int8"] = output / "model_int8.onnx"
        quantize(files["onnx"], files["onnx-int8"])
    if images:
        chosen = [read_image(str(images / name)) for name in find_images(images)[:_MAX_IMAGES]]
        if not chosen:
            raise UsageError("there is no image in it", images, "name a folder with images")
        resize = build_resize(cfg, is_train=False)
        result = compare(model, files, [resize_image(image, resize) for image in chosen])
        with atomic_write(output / "parity.json") as unfinished:
            unfinished.write_text(json.dumps(result, indent=1), encoding="utf-8")
        print(json.dumps(result, indent=1))

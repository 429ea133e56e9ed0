# SPDX-License-Identifier: Apache-2.0
"""Pre-train a vision transformer of timm on images without labels (masked autoencoder).

    python -m dalnet_mae --list datasets/VOC2012/ImageSets/Segmentation/train_aug.txt \\
        --output output/mae/vit_tiny.safetensors

MODEL.VIT.WEIGHTS takes the resulting file. Beside it stand a .json file, which says what it was
trained on, and a folder of the same name with log and checkpoints. Interrupted, the same command
with --resume goes on.
"""

import argparse
import json
import logging
from dataclasses import MISSING, fields
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger
from safetensors.torch import save_file

from dalnet.data.datasets.catalog import datasets_root
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.io import atomic_write, sha256, write_text
from dalnet.modeling.weight_files import weights_path

from .image_folder import PIXEL_MEAN, PIXEL_STD, read_images
from .pretrain import PretrainOptions, draw_preview, pretrain

logger = logging.getLogger(__package__)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "python -m dalnet_mae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, default=datasets_root() / "VOC2012" / "JPEGImages", help="folder")
    add("--list", type=Path, help="file of the ids to take; default: all")
    add("--memory-side", type=_positive, default=256, help="short side of the images in memory")
    for f in (f for f in fields(PretrainOptions) if f.default is not MISSING):
        text = f"{f.metadata['help']}; default: %(default)s"
        kind = _positive if f.type is int and f.default else f.type
        add(f"--{f.name.replace('_', '-')}", type=kind, default=f.default, help=text)
    text = "sizes other than timm's: patch_size, embed_dim, depth, num_heads, as in MODEL.VIT"
    add("--overrides", nargs="+", type=_size, default=[], metavar="KEY=N", help=text)
    add("--output", type=Path, default=Path("output/mae/encoder.safetensors"))
    add("--preview", type=Path, help="PNG: image | masked | reconstruction")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    add("--device", choices=devices, default=devices[0])
    add("--resume", action="store_true", help="go on from the last checkpoint")
    add("--log-every", type=_positive, default=20, help="iterations between lines of progress")
    add("--save-every", type=_positive, default=200, help="iterations between checkpoints")
    args = parser.parse_args()
    if not 0 <= args.warmup < 1:
        parser.error("--warmup is a fraction of the iterations: at least 0 and below 1")
    return args


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def _size(text: str) -> tuple[str, int]:
    key, _, value = text.partition("=")
    return key, int(value)


def main() -> None:
    """Pre-train as the command line says."""
    args = parse_args()
    args.overrides = dict(args.overrides)
    with one_sentence_errors():
        try:
            run(args)
        except OSError as error:
            hint = "name another file or folder, or make it usable"
            raise UsageError(error.strerror or str(error), error.filename or "", hint) from error


def run(args: argparse.Namespace) -> None:
    """Read the images, train, write the encoder and what it was trained on."""
    options = PretrainOptions(**{f.name: getattr(args, f.name) for f in fields(PretrainOptions)})
    output = weights_path(args.output)
    folder = output.with_suffix("")
    for name in ("detectron2", "fvcore", __package__):
        setup_logger(str(folder), name=name)
    images, skipped = read_images(args.images, args.list, args.memory_side)
    for sentence in skipped:
        logger.warning("skipped: %s", sentence)
    images = [image.to(args.device) for image in images]
    every = {"log_every": args.log_every, "save_every": args.save_every}
    model, loss = pretrain(options, images, folder, resume=args.resume, **every)
    encoder = {key: value.cpu().contiguous() for key, value in model.vit.state_dict().items()}
    with atomic_write(output) as temporary:
        save_file(encoder, temporary)
    summary = {
        "weights_sha256": sha256(output),
        "num_images": len(images),
        "skipped": skipped,
        "final_loss": loss,
        "arguments": vars(args),
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
    }
    text = json.dumps(summary, indent=2, default=str)
    write_text(output.with_suffix(".json"), f"{text}\n")
    logger.info("wrote %s, loss %.4f", output, loss)
    if args.preview:
        draw_preview(model, images, args.preview)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Segment your own images and videos with a trained model.

    dalnet predict --weights output/voc_dalnet/model_final.pth \\
        --input images/ "more/*.jpg" --output predicted

Of an image "dog.jpg" it writes, into the folder of --output:
  dog_overlay.jpg     the image with its classes in color and their names on them
  dog_mask.png        class indices with VOC's palette, 0 for background
  dog_cam_CLASS.png   where the classifier sees a class (--save cam, or --image-classes)
and of a video "walk.mp4":
  walk_overlay.mp4    the same in each frame; same size and frame rate, no sound
  walk_mask/*.png     a mask per frame (--save mask)

Inputs in sub-folders keep these sub-folders below --output. Results of an earlier run are replaced,
input files never. Files that cannot be read are left out and listed at the end; the exit status is
1 if nothing could be predicted. The log and the full config go to the folder "log" in --output.
"""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from detectron2.utils.logger import setup_logger

from dalnet.errors import UsageError
from dalnet.evaluation.sources import Protocol
from dalnet.io import atomic_write
from dalnet.prediction.batch import PredictOptions, predict_files
from dalnet.prediction.files import PredictionInput, find_inputs
from dalnet.prediction.predictor import Predictor

from .arguments import add_config, add_keys, add_weights, split_keys, split_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    add = parser.add_argument
    add_weights(parser)
    add_config(parser, "recipe or YAML file; needed only for checkpoints of versions before 0.2")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="image and video files; folders, whose images are taken, those of sub-folders too; "
        'patterns in quotes, as "images/**/*.png". Videos in a folder are found by a pattern only',
    )
    source.add_argument("--webcam", type=int, metavar="N", help="record camera N until Ctrl-C")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        "--save",
        type=_names,
        metavar="KINDS",
        help="what to write, of overlay,mask,cam (default: overlay,mask for images, overlay for "
        "videos, which have no CAMs)",
    )
    add(
        "--classes",
        type=_names,
        metavar="NAMES",
        help="draw only these classes, as dog,cat, in overlays; masks keep all classes. An "
        "open-vocabulary system, as CoDe, looks for these classes",
    )
    add(
        "--image-classes",
        type=_names,
        metavar="NAMES",
        help="classes that the image shows, whose CAMs are written (default: those found in it). "
        "The CAM of a class that the image does not show still has its maximum somewhere. A "
        "system without segmentation head finds only the classes named here",
    )
    text = "cut images with a longer side than this into overlapping tiles of it (no CAMs then)"
    add("--tile", type=int, default=0, metavar="PIXELS", help=text)
    text = "images of one size, or frames of a video, that go through the network together, which "
    text += "is quicker on a GPU; default: %(default)s"
    add("--batch", type=int, default=1, metavar="N", help=text)
    add(
        "--protocol",
        help="ss (one scale) or ms (several), then +flip and +crf as wanted, as ms+flip+crf, which "
        "is slower and more exact (default: as the config's TEST says)",
    )
    add_keys(
        parser,
        "config keys and their values, after all flags; for very large images "
        "INPUT.MIN_SIZE_TEST 448, which scales the short side to 448 pixels for the network",
    )


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments say; return how many inputs were predicted.

    Raises:
        UsageError: there is no model or no input, or see
            :func:`dalnet.prediction.batch.predict_files`.
    """
    if args.tile and ("cam" in (args.save or ()) or args.image_classes):
        raise UsageError("images in tiles have no CAMs", "tile", "leave the tiles or the CAMs out")
    if args.webcam is None:
        paths, keys = split_keys(args.input)
        args.opts = [*keys, *args.opts]
        inputs = find_inputs(paths, args.output)
    else:
        inputs = [PredictionInput(args.webcam, Path(f"webcam{args.webcam}"), is_video=True)]
    protocol = asdict(Protocol.parse(args.protocol)) if args.protocol else {}
    setup_logger(name="dalnet")
    log = args.output / "log"
    with contextlib.ExitStack() as stack:
        with atomic_write(log / "config.yaml") as unfinished:
            stack.enter_context(_log_to(log / "log.txt"))
            model = args.weights or ""
            predictor = Predictor(
                model, config=args.config, opts=args.opts, tile=args.tile, **protocol
            )
            unfinished.write_text(predictor.cfg.dump(), encoding="utf-8")
        shown = args.classes
        if shown and predictor.is_open:
            predictor.set_vocabulary(shown)
            shown = None
        options = PredictOptions(args.save, shown, args.image_classes)
        return predict_files(predictor, inputs, args.output, options, args.batch)


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Append to a file whatever the package logs, also names of files that are no valid text."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    logging.getLogger("dalnet").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("dalnet").removeHandler(handler)
        handler.close()


def _names(text: str) -> list[str]:
    names = split_list(text)
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names

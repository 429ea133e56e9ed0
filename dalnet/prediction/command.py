# SPDX-License-Identifier: Apache-2.0
"""The command that predicts images and videos: what it is told, and what it then does."""

import argparse
from dataclasses import asdict
from pathlib import Path

from detectron2.utils.logger import setup_logger

from dalnet.config import load_config
from dalnet.errors import UsageError
from dalnet.evaluation.sources import Protocol
from dalnet.io import atomic_write

from .batch import PredictOptions, predict_files
from .files import PredictionInput, find_inputs
from .predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    add = parser.add_argument
    add("--weights", metavar="PATH", help="checkpoint, or folder of a training")
    add(
        "--config",
        metavar="NAME",
        help="config of the training, only for checkpoints of before 0.2: later ones hold it",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="files; folders, searched for images with all folders in them; quoted patterns such "
        'as "photos/**/*.png"; videos by their suffix (in folders only by a pattern)',
    )
    source.add_argument("--webcam", type=int, metavar="N", help="record camera N until Ctrl-C")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        "--save",
        type=_names,
        metavar="KINDS",
        help="of overlay,mask,cam; default: overlay,mask, of videos overlay (they have no CAMs)",
    )
    add(
        "--classes",
        type=_names,
        metavar="NAMES",
        help="show only these classes, as dog,cat, and the others as background; masks keep all",
    )
    add(
        "--cam-classes",
        type=_names,
        metavar="NAMES",
        help="classes to write CAMs of; without it those found in the image. A CAM needs to be "
        "told its class: it lights up somewhere even if the image does not show that class. A "
        "system without segmentation head finds these classes only",
    )
    add(
        "--protocol",
        type=Protocol.parse,
        help="ss (single scale) or ms (several), then +flip and +crf as wanted, as in ms+flip+crf: "
        "slower, more exact; default: what TEST of the config says",
    )
    add(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="keys of the config, at the end; for very large images INPUT.MIN_SIZE_TEST 448 (the "
        "network then sees them with 448 pixels on the short side)",
    )


def run(args: argparse.Namespace) -> int:
    """Predict what the arguments say; return how many inputs were predicted.

    Raises:
        UsageError: there is no model or no input, or see :func:`.batch.predict_files`.
    """
    if args.webcam is None:
        inputs = find_inputs(args.input, args.output)
    else:
        inputs = [PredictionInput(args.webcam, Path(f"webcam{args.webcam}"), is_video=True)]
    model = args.weights
    if args.config:
        model = load_config(args.config, args.opts)
        model.MODEL.WEIGHTS = args.weights or model.MODEL.WEIGHTS
    elif not model:
        raise UsageError("There is no model to predict with; give a checkpoint as --weights.")
    protocol = asdict(args.protocol) if args.protocol else {}
    log = args.output / "log"
    with atomic_write(log / "config.yaml") as unfinished:
        setup_logger(str(log.resolve()), name="dalnet")
        predictor = Predictor(model, opts=args.opts, **protocol)
        unfinished.write_text(predictor.cfg.dump(), encoding="utf-8")
    options = PredictOptions(args.save, args.classes, args.cam_classes)
    return predict_files(predictor, inputs, args.output, options)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names

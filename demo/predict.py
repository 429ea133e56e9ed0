#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Segment your own pictures and films with a trained model.

    python demo/predict.py --config-file configs/voc_dalnet.yaml --input photos/ "more/*.jpg" \\
        --output predicted --opts MODEL.WEIGHTS output/voc_dalnet/model_final.pth

Of a picture "dog.jpg" it writes, into the folder of --output:
  dog_overlay.jpg     the picture with its classes in colour and their names below
  dog_mask.png        class indices with VOC's palette, 0 for background
  dog_cam_CLASS.png   where the classifier sees a class (--save cam, or --cam-classes)
and of a film "walk.mp4":
  walk_overlay.mp4    of the same size and frame rate, without sound
  walk_mask/*.png     a mask per frame (--save mask)

What lies in folders stays in folders of the same names below --output. Results of an earlier run
are replaced, inputs never. What cannot be read is left out and listed at the end; the exit status
is 1 if nothing could be predicted. The log and the full config are in the folder "log" there.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode

from dalnet.engine import setup
from dalnet.engine.launch import one_sentence_errors
from dalnet.prediction.files import PredictionInput, find_inputs
from dalnet.prediction.batch import PredictionJob, predict_inputs
from dalnet.evaluation.protocol import Protocol


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the config of the training")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="files; folders, searched for pictures with all folders in them; quoted patterns such "
        'as "photos/**/*.png"; films by their suffix (in folders only by a pattern)',
    )
    source.add_argument("--video-input", metavar="FILE", help="a film, whatever its suffix")
    source.add_argument("--webcam", type=int, metavar="N", help="film camera N until Ctrl-C")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        "--save",
        type=_names,
        metavar="KINDS",
        help="of overlay,mask,cam; default: overlay,mask, of films overlay (films have no CAMs)",
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
        help="classes to write CAMs of; without it those found in the picture. A CAM needs to be "
        "told its class: it lights up somewhere even if the picture does not show that class",
    )
    add(
        "--protocol",
        type=Protocol.parse,
        help="ss (single scale) or ms (several), then +flip (mirror image) and +crf as wanted, as "
        "in ms+flip+crf: slower, more exact; default: what TEST of the config says",
    )
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the config, at the end: MODEL.WEIGHTS and, for very large pictures, "
        "INPUT.MIN_SIZE_TEST 448 (the network then sees them with 448 pixels on the short side)",
    )
    parser.set_defaults(eval_only=True, resume=False, num_gpus=1, num_machines=1)
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names


def main(args: argparse.Namespace) -> int:
    """Predict; returns how many inputs could be."""
    if args.webcam is not None:
        inputs = [PredictionInput(args.webcam, Path(f"webcam{args.webcam}"), is_video=True)]
    else:
        inputs = find_inputs(args.input or [args.video_input], args.output, not args.input)

    def adjust(cfg: CfgNode) -> None:
        # A folder of its own: --output may be where other configs and logs lie.
        cfg.OUTPUT_DIR = str(args.output / "log")

    job = PredictionJob(
        inputs, args.output, args.save, args.classes, args.cam_classes, args.protocol
    )
    return predict_inputs(setup(args, adjust), job)


if __name__ == "__main__":
    with one_sentence_errors():
        main(parse_args())

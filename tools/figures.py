#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Draw the paper's Figures 3 to 6 for a trained model, as .png or .pdf.

    python tools/figures.py cams --config-file configs/voc_dalnet.yaml \\
        --split voc_2012_sem_seg_val --output cams.pdf MODEL.WEIGHTS output/model_final.pth
    python tools/figures.py compare --split voc_2012_sem_seg_val --output compare.pdf \\
        --model "without alignment" configs/a.yaml output/a/model_final.pth \\
        --model DALNet configs/b.yaml output/b/model_final.pth

Flags come before config keys.
"""

import argparse
import tempfile
from pathlib import Path

from detectron2.config import CfgNode

from dalnet.engine import setup
from dalnet.engine.launch import one_sentence_errors
from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol
from dalnet.figures.paper import (
    FigureJob,
    draw_cams,
    draw_comparison,
    draw_segmentations,
    draw_similarities,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figures = parser.add_subparsers(dest="figure", required=True)
    add(figures, "cams", "Figure 3: CAM of each class that an image shows")
    segmentations = add(figures, "segmentations", "Figure 4: truth and prediction")
    segmentations.add_argument(
        "--protocol",
        type=Protocol.parse,
        default="ss",
        help="ss or ms, then +flip and +crf as wanted; default: %(default)s",
    )
    compare = add(figures, "compare", "Figure 5: CAMs of several models side by side")
    compare.add_argument(
        "--model",
        dest="models",
        nargs=3,
        action="append",
        required=True,
        metavar=("LABEL", "CONFIG", "WEIGHTS"),
        help="give it once for each model",
    )
    compare.add_argument(
        "--class", dest="class_name", help="default: the largest CAM of the image's classes"
    )
    similarity = add(figures, "similarity", "Figure 6: similarity of patches with texts")
    similarity.add_argument(
        "--stretch", action="store_true", help="colour each map by its own range, not by all maps'"
    )
    return parser.parse_args()


def add(figures: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = figures.add_parser(name, help=text, description=text)
    if name != "compare":
        parser.add_argument("--config-file", required=True)
    parser.add_argument("--split", required=True, help="a registered data set")
    parser.add_argument("--output", type=Path, required=True, help="FILE.png or FILE.pdf")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--images", default="", help="ids (file names without suffix): ID1,ID2")
    images.add_argument(
        "--count", type=int, default=4, help="images, drawn at random; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the draw; default: %(default)s"
    )
    parser.add_argument("--colorblind", action="store_true", help="colours safe for everyone")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    return parser


def read_config(args: argparse.Namespace, config_file: str, opts: list[str]) -> CfgNode:
    def adjust(cfg: CfgNode) -> None:
        cfg.DATASETS.TEST = (args.split,)
        cfg.OUTPUT_DIR = args.scratch
        if not cfg.MODEL.WEIGHTS:
            raise UsageError("there is no model to draw: give its checkpoint as MODEL.WEIGHTS.")

    one_process = {"eval_only": True, "resume": False, "num_gpus": 1, "num_machines": 1}
    return setup(argparse.Namespace(config_file=config_file, opts=opts, **one_process), adjust)


def draw(args: argparse.Namespace) -> None:
    images = tuple(name.strip() for name in args.images.split(",") if name.strip())
    job = FigureJob(args.split, args.output, images, args.count, args.seed, args.colorblind)
    if args.figure == "compare":
        labels = [label for label, _, _ in args.models]
        if len(set(labels)) < len(labels):
            raise UsageError(f"two models are called {max(labels, key=labels.count)!r}.")
        models = {
            label: read_config(args, config_file, [*args.opts, "MODEL.WEIGHTS", weights])
            for label, config_file, weights in args.models
        }
        draw_comparison(models, job, args.class_name)
        return
    cfg = read_config(args, args.config_file, args.opts)
    if args.figure == "cams":
        draw_cams(cfg, job)
    elif args.figure == "segmentations":
        draw_segmentations(cfg, job, args.protocol)
    else:
        draw_similarities(cfg, job, args.stretch)


def main() -> None:
    with one_sentence_errors():
        args = parse_args()
        # For log and config, which every set-up writes: the figure alone is to remain.
        with tempfile.TemporaryDirectory() as args.scratch:
            draw(args)
        print(f"written: {args.output}")


if __name__ == "__main__":
    main()

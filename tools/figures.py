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

import dalnet  # noqa: F401  before torch: it sets how OpenMP waits

# isort: split
from detectron2.config import CfgNode
from matplotlib.figure import Figure

from dalnet.checkpoint import load_model
from dalnet.config import load_config
from dalnet.engine import setup
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.evaluation.sources import Protocol
from dalnet.figures.cams import draw_cams, draw_comparison
from dalnet.figures.images import choose_images, predict_images
from dalnet.figures.layout import check_format, save_figure
from dalnet.figures.sheet import draw_segmentations
from dalnet.figures.similarity import draw_similarities

FIGURES = {
    "cams": "Figure 3: CAM of each class that an image shows",
    "segmentations": "Figure 4: truth and prediction",
    "compare": "Figure 5: CAMs of several models side by side",
    "similarity": "Figure 6: similarity of patches with texts",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figures = parser.add_subparsers(dest="figure", required=True)
    for name, text in FIGURES.items():
        add_flags(figures.add_parser(name, help=text, description=text), name)
    return parser.parse_args()


def add_flags(parser: argparse.ArgumentParser, figure: str) -> None:
    if figure == "compare":
        names = ("LABEL", "CONFIG", "WEIGHTS")
        text = "give it once for each model"
        parser.add_argument(
            "--model",
            dest="models",
            nargs=3,
            action="append",
            required=True,
            metavar=names,
            help=text,
        )
    else:
        parser.add_argument("--config-file", required=True)
    parser.add_argument("--split", required=True, help="a registered data set")
    parser.add_argument("--output", type=Path, required=True, help="FILE.png or FILE.pdf")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--images", default="", help="ids (file names without suffix): ID1,ID2")
    text = "images, drawn at random; default: %(default)s"
    images.add_argument("--count", type=int, default=4, help=text)
    text = "seed of the draw; default: %(default)s"
    parser.add_argument("--seed", type=int, default=0, help=text)
    parser.add_argument("--colorblind", action="store_true", help="colors safe for everyone")
    if figure == "segmentations":
        text = "ss or ms, then +flip and +crf as wanted; default: %(default)s"
        parser.add_argument("--protocol", type=Protocol.parse, default="ss", help=text)
    elif figure == "compare":
        text = "default: the largest CAM of the image's classes"
        parser.add_argument("--class", dest="class_name", help=text)
    elif figure == "similarity":
        text = "color each map by its own range, not by all maps'"
        parser.add_argument("--stretch", action="store_true", help=text)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")


def read_config(args: argparse.Namespace, config_file: str, opts: list[str]) -> CfgNode:
    cfg = load_config(config_file, opts)
    cfg.DATASETS.TEST = (args.split,)
    cfg.OUTPUT_DIR = args.scratch
    cfg.TEST.EVAL_CAM = True
    if args.figure == "segmentations":
        cfg.TEST.MULTI_SCALE.ENABLED, cfg.TEST.MULTI_SCALE.FLIP = True, args.protocol.flip
        if not args.protocol.multi_scale:
            cfg.TEST.MULTI_SCALE.SCALES = (1.0,)
        cfg.TEST.CRF.ENABLED = args.protocol.crf
    if not cfg.MODEL.WEIGHTS:
        raise UsageError("there is no model to draw: give its checkpoint as MODEL.WEIGHTS.")
    return setup(cfg, eval_only=True)


def draw(args: argparse.Namespace) -> Figure:
    """Choose images, run the model, draw."""
    configs = read_configs(args)
    records = choose_images(
        args.split,
        [name.strip() for name in args.images.split(",") if name.strip()],
        args.count,
        args.seed,
        class_name=getattr(args, "class_name", None),
        needs_labels=args.figure != "segmentations",
    )
    if args.figure == "similarity":
        (cfg,) = configs.values()
        style = args.stretch, args.colorblind
        return draw_similarities(cfg, load_model(cfg), records, args.split, *style)
    needs_cams = args.figure != "segmentations"
    results = {
        label: list(predict_images(cfg, load_model(cfg), args.split, records, needs_cams))
        for label, cfg in configs.items()
    }
    if args.figure == "compare":
        return draw_comparison(results, args.split, args.class_name, args.colorblind)
    draw_one = draw_cams if args.figure == "cams" else draw_segmentations
    return draw_one(*results.values(), args.split, args.colorblind)


def read_configs(args: argparse.Namespace) -> dict[str, CfgNode]:
    if args.figure != "compare":
        return {"": read_config(args, args.config_file, args.opts)}
    labels = [label for label, _, _ in args.models]
    if len(set(labels)) < len(labels):
        raise UsageError(f"two models are called {max(labels, key=labels.count)!r}.")
    return {
        label: read_config(args, config_file, [*args.opts, "MODEL.WEIGHTS", weights])
        for label, config_file, weights in args.models
    }


def main() -> None:
    with one_sentence_errors():
        args = parse_args()
        # For log and config, which every set-up writes: the figure alone is to remain.
        with tempfile.TemporaryDirectory() as args.scratch:
            check_format(args.output)
            save_figure(args.output, draw(args))
        print(f"written: {args.output}")


if __name__ == "__main__":
    main()

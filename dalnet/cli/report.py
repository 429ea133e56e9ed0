# SPDX-License-Identifier: Apache-2.0
"""Write a run as one HTML page: results, curves and a gallery of best, worst and random images.

    dalnet report --weights output/voc_dalnet/model_final.pth --split voc_2012_sem_seg_val

The curves are read from metrics.json beside the weights, the results from results.json of
"dalnet evaluate"; the gallery is made by running the model.
"""

import argparse
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dalnet.checkpoint import config_for
from dalnet.engine import setup
from dalnet.report.run import MAX_IMAGES, write_report

from .arguments import add_config, add_keys, add_split, add_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    add_config(parser, "recipe or YAML file (default: the config in the checkpoint)")
    add_weights(parser)
    add = parser.add_argument
    add_split(parser)
    text = "folder with metrics.json (default: the folder of the weights)"
    add("--run", type=Path, metavar="DIR", help=text)
    add(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a results.json; may be given several times (default: all in DIR/evaluation/SPLIT)",
    )
    text = "page to write (default: OUTPUT_DIR/report/SPLIT/report.html)"
    add("--output", type=Path, metavar="FILE", help=text)
    text = f"images in each group of the gallery, 1 to {MAX_IMAGES}; default: %(default)s"
    add("--images", type=int, default=8, help=text)
    text = "use colors that color-blind readers can tell apart"
    add("--colorblind", action="store_true", help=text)
    add_keys(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page that the arguments ask for.

    Raises:
        UsageError: a model, file or value cannot be used.
    """
    cfg = config_for(args.weights, args.config, args.opts)
    own = {key: getattr(args, key) for key in ("run", "results", "images", "colorblind")}
    write_page(cfg, args.split, args.output, config_name=args.config, **own)


def write_page(cfg: CfgNode, split: str, output: Path | None = None, **options: Any) -> None:
    """Write a page about a trained model and print its path.

    Args:
        cfg: of :func:`dalnet.checkpoint.config_for`; changed in place.
        split: a registered data set.
        output: the page; by default ``OUTPUT_DIR/report/SPLIT/report.html``.
        options: see :func:`dalnet.report.run.write_report`.

    Raises:
        UsageError: a file or value cannot be used.
    """
    cfg.DATASETS.TEST = (split,)
    cfg.TEST.EVAL_CAM = True
    # Not OUTPUT_DIR itself: the training's config and log lie there.
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, "report", split))
    setup(cfg, eval_only=True)
    output = output or Path(cfg.OUTPUT_DIR, "report.html")
    write_report(cfg, split, output, **options)
    print(f"written: {output}")

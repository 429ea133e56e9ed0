# SPDX-License-Identifier: Apache-2.0
"""Draw the paper's Figures 3 to 6 for a trained model, as .png or .pdf.

    dalnet figures cams --weights output/voc_dalnet/model_final.pth \\
        --split voc_2012_sem_seg_val --output cams.pdf
    dalnet figures compare --split voc_2012_sem_seg_val --output compare.pdf \\
        --model "without alignment" output/a/model_final.pth \\
        --model DALNet output/b/model_final.pth

"dalnet figures FIGURE --help" shows the flags of a figure.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure

from dalnet.checkpoint import config_for, load_model
from dalnet.engine.setup import check_config
from dalnet.errors import UsageError
from dalnet.evaluation.sources import Protocol
from dalnet.figures.heat_maps import draw_cams, draw_comparison, draw_similarities
from dalnet.figures.images import choose_images, predict_images
from dalnet.figures.layout import check_format, save_figure
from dalnet.figures.sheet import draw_sheet

from .arguments import add_config, add_keys, add_split, add_weights, split_list

FIGURES = {
    "cams": "Figure 3: CAM of each class that an image shows",
    "segmentations": "Figure 4: truth and prediction",
    "compare": "Figure 5: CAMs of several models side by side",
    "similarity": "Figure 6: similarity of patches with texts",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True)
    for name, text in FIGURES.items():
        _add_figure_arguments(figures.add_parser(name, help=text, description=text), name)


def run(args: argparse.Namespace) -> None:
    """Draw the figure that the arguments name, and write it.

    Raises:
        UsageError: the format, a model or the choice of images cannot be used.
    """
    check_format(args.output)
    # On the terminal only: no file but the figure is written.
    setup_logger(name="dalnet")
    save_figure(args.output, _draw(args))
    print(f"written: {args.output}")


def _add_figure_arguments(parser: argparse.ArgumentParser, figure: str) -> None:
    add = parser.add_argument
    if figure == "compare":
        add(
            "--model",
            nargs=2,
            action="append",
            required=True,
            metavar=("LABEL", "FILE"),
            help="name of a model in the figure, and its checkpoint; give it once for each model",
        )
    else:
        add_weights(parser)
    add_config(parser, "recipe or YAML file (default: the config in the checkpoint)")
    add_split(parser)
    add("--output", type=Path, required=True, metavar="FILE", help="FILE.png or FILE.pdf")
    images = parser.add_mutually_exclusive_group()
    text = "images to draw, by their names without suffix: a, or cat/a below a folder of images"
    images.add_argument("--images", default="", metavar="NAME,...", help=text)
    text = "number of images, chosen at random; default: %(default)s"
    images.add_argument("--count", type=int, default=4, help=text)
    add("--seed", type=int, default=0, help="seed of the random choice; default: %(default)s")
    text = "use colors that color-blind readers can tell apart"
    add("--colorblind", action="store_true", help=text)
    if figure == "segmentations":
        text = "ss (one scale) or ms (several), then +flip and +crf as wanted; default: ss"
        add("--protocol", help=text)
    elif figure == "compare":
        text = "class whose CAMs are drawn (default: the maximum over each image's classes)"
        add("--class-name", help=text)
    elif figure == "similarity":
        text = "use the whole color scale for each map, instead of one scale for all maps"
        add("--stretch", action="store_true", help=text)
    add_keys(parser)


def _draw(args: argparse.Namespace) -> Figure:
    """Load the models, choose images and draw the models' results on them."""
    configs = _read_configs(args)
    models = {label: load_model(cfg) for label, cfg in configs.items()}
    needs_cams = args.figure != "segmentations"
    if getattr(args, "protocol", None) and any("sem_seg" not in m.sources for m in models.values()):
        hint = "leave it out: it is drawn by its CAMs, under MODEL.CAM.SCALES"
        raise UsageError("the system has no segmentation head", "protocol", hint)
    # A system without segmentation head labels pixels by image-level labels.
    needs_labels = needs_cams or any("sem_seg" not in one.sources for one in models.values())
    records = choose_images(
        args.split,
        split_list(args.images),
        args.count,
        args.seed,
        class_name=getattr(args, "class_name", None),
        needs_labels=needs_labels,
    )
    if args.figure == "similarity":
        style = args.stretch, args.colorblind
        return draw_similarities(configs[""], models[""], records, args.split, *style)
    results = {
        label: list(predict_images(configs[label], model, args.split, records, needs_cams))
        for label, model in models.items()
    }
    if args.figure == "compare":
        return draw_comparison(results, args.split, args.class_name, args.colorblind)
    if args.figure == "cams":
        return draw_cams(results[""], args.split, args.colorblind)
    columns = ("image", "truth", "prediction")
    return draw_sheet(results[""], args.split, titles=columns, colorblind=args.colorblind)


def _read_configs(args: argparse.Namespace) -> dict[str, CfgNode]:
    """Return the config of each model by the model's name in the figure."""
    models = args.model if args.figure == "compare" else [("", args.weights)]
    labels = [label for label, _ in models]
    if len(set(labels)) < len(labels):
        name = max(labels, key=labels.count)
        raise UsageError(f"two models are called {name!r}", "model", "give each its own name")
    return {label: _read_config(args, weights) for label, weights in models}


def _read_config(args: argparse.Namespace, weights: str | None) -> CfgNode:
    cfg = config_for(weights, args.config, args.opts)
    cfg.DATASETS.TEST = (args.split,)
    cfg.TEST.EVAL_CAM = True
    if args.figure == "segmentations":
        protocol = Protocol.parse(args.protocol or "ss")
        cfg.TEST.MULTI_SCALE.ENABLED, cfg.TEST.MULTI_SCALE.FLIP = True, protocol.flip
        if not protocol.multi_scale:
            cfg.TEST.MULTI_SCALE.SCALES = (1.0,)
        cfg.TEST.CRF.ENABLED = protocol.crf
    check_config(cfg, eval_only=True)
    cfg.freeze()
    return cfg

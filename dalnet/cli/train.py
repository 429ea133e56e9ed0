# SPDX-License-Identifier: Apache-2.0
"""Train a model, on a recipe's data set or on your own tagged images; then evaluate it.

    dalnet train --config toy_dalnet --output output/toy
    dalnet train --config voc_dalnet --num-gpus 4 SOLVER.IMS_PER_BATCH 8
    dalnet train --config voc_dalnet --output output/voc --resume
    dalnet train --images pets/ --tags pets.csv --output output/pets

With --images the recipe is chosen from the hardware and the data; a --config takes its place, and
keys at the end count more than both.
Tags are a .csv or .tsv file (columns file,tags with ";" between tags, or one column for each tag
with 1, 0 or nothing), .json (image to list), .jsonl, or an export of COCO, Label Studio or CVAT.
The folder of the run gets config.yaml, log.txt, metrics.json, checkpoints and evaluation/, and
with --images report.html, a page with results, curves and images.
"""

import argparse
import os
from pathlib import Path

from dalnet.errors import UsageError

from .arguments import (
    add_config,
    add_keys,
    add_processes,
    add_weights,
    refuse_without_images,
)

# Arguments that are passed on as they are.
_OWN = ("tags", "classes", "untagged", "masks", "corrections", "val", "encoder", "texts")


def add_arguments(parser: argparse.ArgumentParser, own_images: bool = True) -> None:
    """Add the command's arguments to ``parser``, with those for the user's own images or not."""
    add_config(parser)
    add_weights(parser)
    parser.add_argument("--output", metavar="DIR", help="folder of the run; sets OUTPUT_DIR")
    text = "go on with the interrupted training in the folder of the run"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "remove an earlier training from the folder of the run, and train anew"
    parser.add_argument("--overwrite", action="store_true", help=text)
    if own_images:
        _add_image_arguments(parser)
    add_processes(parser)
    add_keys(parser)


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("your own images").add_argument
    add("--images", type=Path, metavar="DIR", help="folder of images, sub-folders included")
    text = "file of tags (default: each sub-folder is a class)"
    add("--tags", type=Path, metavar="FILE", help=text)
    text = "YAML file that lists classes, their words for CLIP, and synonyms (default: all tags)"
    add("--classes", type=Path, metavar="FILE", help=text)
    text = "images without tags: unknown leaves them out, none takes them to show no class"
    add("--untagged", choices=("unknown", "none"), default="unknown", help=text)
    add("--masks", type=Path, metavar="DIR", help="label maps (PNG), for evaluation only")
    text = (
        "label maps (PNG) that you have corrected; they replace the pseudo labels of their images"
    )
    add("--corrections", type=Path, metavar="DIR", help=text)
    text = "images held out for evaluation: a file that lists them, or a fraction (default: 0.15 "
    text += "of those with a mask; 0 without masks, where the average precision of the tags is "
    text += "measured)"
    add("--val", default="", metavar="FILE|FRACTION", help=text)
    text = (
        "vision transformer: deit-tiny, deit-small, deit-base, dinov2-small, its name in timm, or "
    )
    text += "a file of its weights that has this name (default: as the recipe)"
    add("--encoder", default="", metavar="NAME|FILE", help=text)
    text = "file of text embeddings of the classes, instead of CLIP's text tower"
    add("--texts", default="", metavar="FILE", help=text)
    text = "train without texts and without the two alignment losses"
    add("--no-alignment", action="store_true", help=text)


def run(args: argparse.Namespace) -> None:
    """Train as the arguments say.

    Raises:
        UsageError: neither a config nor images are named, or see
            :func:`dalnet.labeling.tagged_training.prepare_run`, :func:`dalnet.engine.train.main`.
    """
    from dalnet.engine.train import launch_training

    if args.images:
        from dalnet.engine.run_folder import require_unused
        from dalnet.labeling.tagged_training import prepare_run

        if args.output:
            # Before the description of the images is written into it.
            require_unused(args.output, args.resume, args.overwrite)
        if args.config and args.no_alignment:
            hint = "leave the flag out, and name a config without the alignment"
            raise UsageError("it chooses a recipe, and a config is named", "no_alignment", hint)
        options = {name: getattr(args, name) for name in _OWN}
        options |= {"align": not args.no_alignment, "config": args.config or ""}
        run = prepare_run(args.images, args.output, resume=args.resume, **options)
        args.prepare = run.write
        opts = [*run.recipe.opts]
        if args.weights and not args.config:
            print(
                "- all losses act from the first iteration on, as the weights are taken to be a "
                "training's; MODEL.DALNET.SEG_START_ITER and ALIGN_START_ITER change it"
            )
            opts += ["MODEL.DALNET.SEG_START_ITER", "0", "MODEL.DALNET.ALIGN_START_ITER", "0"]
        args.config, args.opts = run.recipe.config, [*opts, *args.opts]  # the user's own last
    else:
        refuse_without_images(args, (*_OWN, "no_alignment"))
    launch_training(training_arguments(args))
    # torchrun starts every process with this command, as a person does on every machine.
    if args.images and os.environ.get("RANK", "0") == "0" and args.machine_rank == 0:
        _write_page(args.output)


def _write_page(run: str) -> None:
    """Write the page of a finished training: on the held-out images, or on those of the training.

    Masks of images that were not held out stay closed.
    """
    from dalnet.checkpoint import config_for

    from .report import write_page

    cfg = config_for(run)
    split, *_ = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
    write_page(cfg, split, Path(run, "report.html"), open_masks=bool(cfg.DATASETS.TEST))


def training_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments in the form that Detectron2's programs take.

    Raises:
        UsageError: no config is named, or the weights do not exist.
    """
    from dalnet.checkpoint import find_checkpoint

    if not args.config:
        raise UsageError("no config is named", where="config", hint="as in --config voc_dalnet")
    opts = list(args.opts)
    weights = args.weights and str(find_checkpoint(args.weights))
    for key, value in (("MODEL.WEIGHTS", weights), ("OUTPUT_DIR", args.output)):
        # Behind the keys, so that the flag counts.
        opts += [key, value] if value else []
    return argparse.Namespace(
        **{
            "eval_only": False,
            "prepare": None,
            **vars(args),
            "opts": opts,
            "config_file": args.config,
        }
    )

# SPDX-License-Identifier: Apache-2.0
"""Write label maps of tagged images: the network chooses among each image's own tags.

    dalnet label --weights output/pets --output labeled
    dalnet label --weights output/pets --images more/ --tags more.csv --output labeled_more \\
        --format coco,label-studio --overlays

Without --images the images that the model was trained on are labeled. If it is interrupted, the
same command goes on where it stopped. The folder of --output gets images/, masks/ (PNG with a
palette: 0 background, then the classes) and dataset_meta.json, a layout that Datumaro, FiftyOne and
LightlyTrain read; confidence/ (PNG, 0 to 255); and uncertain.csv, the images that a person should
look at first.
"""

import argparse
from pathlib import Path

from dalnet.checkpoint import checkpoint_hash, find_checkpoint
from dalnet.data.datasets.tagged import TaggedImages
from dalnet.errors import UsageError
from dalnet.evaluation.sources import Protocol
from dalnet.labeling.formats import WRITERS
from dalnet.labeling.label import label_images, tagged_images, write_formats
from dalnet.labeling.tagged_training import DESCRIPTION
from dalnet.prediction import Predictor

from .arguments import add_keys, add_weights

_PROTOCOL = "ms+flip+crf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_weights(parser)
    add("--images", type=Path, metavar="DIR", help="folder of images (default: the training's)")
    add("--tags", type=Path, metavar="FILE", help="file of tags (default: the sub-folders)")
    text = "images without tags: unknown leaves them out, none takes them to show no class"
    add("--untagged", choices=("unknown", "none"), default="unknown", help=text)
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the label maps")
    text = "label by the segmentation head or by CAMs; default: %(default)s"
    add("--source", choices=("sem_seg", "cam"), default="sem_seg", help=text)
    text = "ss (one scale) or ms (several), then +flip and +crf as wanted; default: %(default)s"
    add("--protocol", type=Protocol.parse, default=_PROTOCOL, help=text)
    text = f"also write annotations in these formats: {', '.join(WRITERS)}"
    add("--format", default="", metavar="NAME,...", help=text)
    text = "also write overlays/, each image with its labels in color"
    add("--overlays", action="store_true", help=text)
    text = "replace label maps in the folder that were made with another model or other settings"
    add("--overwrite", action="store_true", help=text)
    add_keys(parser)


def run(args: argparse.Namespace) -> None:
    """Label what the arguments say.

    Raises:
        UsageError: there is no model, no image, or the folder cannot be used.
    """
    if not args.weights:
        raise UsageError("there is no model to label with", "weights", "name its checkpoint")
    weights = find_checkpoint(args.weights)
    protocol = {name: getattr(args.protocol, name) for name in ("multi_scale", "flip", "crf")}
    predictor = Predictor(weights, opts=args.opts, **protocol)
    if args.images:
        names = predictor.class_names[1:]
        classes = dict(zip(names, names, strict=True))
        described = TaggedImages(args.images, args.tags, classes, untagged=args.untagged)
    else:
        described = TaggedImages.load(weights.parent / DESCRIPTION)
    images, unknown = tagged_images(described)
    if unknown:
        print(f"{unknown} images without known tags are left out")
    settings = {"weights": checkpoint_hash(str(weights)), "opts": args.opts, **protocol}
    options = {"source": args.source, "overlays": args.overlays, "overwrite": args.overwrite}
    done = label_images(predictor, images, args.output, settings, **options)
    formats = [name for name in args.format.split(",") if name]
    write_formats(args.output, images, predictor.class_names, formats)
    print(f"{done} of {len(images)} images labeled now; written: {args.output}")

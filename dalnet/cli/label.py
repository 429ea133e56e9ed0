# SPDX-License-Identifier: Apache-2.0
"""Write label maps of tagged images: the network chooses among each image's own tags.

    dalnet label --weights output/pets --output labeled
    dalnet label --weights output/pets --images more/ --tags more.csv --output labeled_more \\
        --format coco,label-studio --overlays

Without --images the images that the model was trained on are labeled. If it is interrupted, the
same command goes on where it stopped. The folder of --output gets images/, masks/ (PNG with a
palette: 0 background, then the classes) and dataset_meta.json, a layout that Datumaro and
LightlyTrain read; confidence/ (PNG, 0 to 255); and uncertain.csv, the images that a person should
look at first.

    dalnet label --engine ray --weights output/pets --tags list.parquet --output labeled --actors 8

labels on many machines (docs/scale.md): a Parquet list with the columns file and tags or, without
--tags, the webdataset shards of --images. The folder of --output then gets masks/*.parquet and
rejected.parquet.
"""

import argparse
from pathlib import Path
from typing import Any

from dalnet.checkpoint import checkpoint_hash, find_checkpoint
from dalnet.data.datasets.tagged import TaggedImages
from dalnet.data.image_headers import count_turned
from dalnet.errors import UsageError
from dalnet.evaluation.sources import Protocol
from dalnet.labeling.formats import WRITERS
from dalnet.labeling.label import label_images, tagged_images, write_formats
from dalnet.labeling.tagged_training import DESCRIPTION, require_outside
from dalnet.prediction import Predictor

from .arguments import add_keys, add_weights, refuse_without_images, split_list

_PROTOCOL = "ms+flip+crf"
_CLUSTER = {"actors": 1, "cpus": 1.0, "gpus": 0.0, "shard_size": 256}  # flags, with their defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_weights(parser)
    add("--images", metavar="DIR", help="folder of images (default: the training's)")
    add("--tags", metavar="FILE", help="file of tags (default: the sub-folders)")
    text = "images without tags: unknown leaves them out, none takes them to show no class"
    add("--untagged", choices=("unknown", "none"), default="unknown", help=text)
    add("--output", required=True, metavar="DIR", help="folder of the label maps")
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
    _add_cluster(parser)
    add_keys(parser)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("on many machines").add_argument
    text = "local, or ray: a Ray Data job, on the cluster of RAY_ADDRESS or else on this machine"
    add("--engine", choices=("local", "ray"), default="local", help=text)
    parser.set_defaults(**_CLUSTER)
    add("--actors", type=int, help="models that work at once; default: %(default)s")
    text = "CPUs of each model, also a fraction; default: %(default)g"
    add("--cpus", type=float, help=text)
    text = "GPUs of each model, also a fraction; default: %(default)g"
    add("--gpus", type=float, help=text)
    text = "label maps in a file; what is not in a file when the job is killed is done again; "
    add("--shard-size", type=int, help=f"{text}default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Label what the arguments say.

    Raises:
        UsageError: there is no model, no image, or the folder cannot be used.
    """
    if not args.weights:
        raise UsageError("there is no model to label with", "weights", "name its checkpoint")
    weights = find_checkpoint(args.weights)
    if args.engine == "ray":
        _label_on_cluster(args, weights)
    else:
        _label_here(args, weights)


def _label_here(args: argparse.Namespace, weights: Path) -> None:
    for name, default in _CLUSTER.items():
        if getattr(args, name) != default:
            raise UsageError("only a cluster reads it", name, "leave it out, or add --engine ray")
    protocol, output = _protocol(args), Path(args.output)
    own = None if args.images else _training_images(args, weights)
    # Before the network is read, which takes longer.
    require_outside(output, own.images if own else Path(args.images), "output")
    predictor = Predictor(weights, opts=args.opts, **protocol)
    if own is None:
        names = predictor.class_names[1:]
        classes = dict(zip(names, names, strict=True))
        tags = Path(args.tags) if args.tags else None
        own = TaggedImages(Path(args.images), tags, classes, untagged=args.untagged)
    images, unknown = tagged_images(own)
    if unknown:
        print(f"{unknown} images without known tags are left out")
    settings = {"weights": checkpoint_hash(str(weights)), "opts": args.opts, **protocol}
    options = {"source": args.source, "overlays": args.overlays, "overwrite": args.overwrite}
    done = label_images(predictor, images, output, settings, **options)
    write_formats(output, images, predictor.class_names, split_list(args.format))
    if turned := count_turned([str(image.path) for image in images]):
        text = "are turned by EXIF: their label maps fit them upright, not as they are stored"
        print(f"{turned} of {len(images)} images {text}")
    print(f"{done} of {len(images)} images labeled now; written: {output}")


def _training_images(args: argparse.Namespace, weights: Path) -> TaggedImages:
    refuse_without_images(args, ("tags", "untagged"))
    path = weights.parent / DESCRIPTION
    if not path.is_file():
        what = f"there is no {path}, which says what the model was trained on"
        raise UsageError(what, "images", "name the images, and their tags if they are in a file")
    return TaggedImages.load(path)


def _label_on_cluster(args: argparse.Namespace, weights: Path) -> None:
    try:
        from dalnet.labeling.cluster import ClusterOptions, label_on_cluster
        from dalnet.labeling.cluster_input import find_list, find_shards
    except ModuleNotFoundError as error:
        hint = 'run: pip install "dalnet[cluster]"'
        raise UsageError(f"{error.name} is not installed", "engine", hint) from error
    if args.format or args.overlays:
        hint = "leave out other formats and overlays"
        raise UsageError("Ray writes label maps alone", "engine", hint)
    if not (args.tags or args.images):
        hint = "name a Parquet list, or a folder of webdataset shards as images"
        raise UsageError("there is nothing to label", "tags", hint)
    options = ClusterOptions(args.actors, args.cpus, args.gpus, args.shard_size)
    protocol = _protocol(args)
    model = {"model": str(weights.resolve()), "opts": args.opts, **protocol}
    names = Predictor(**model).class_names
    labeled, rejected = label_on_cluster(
        find_list(args.tags, names) if args.tags else find_shards(args.images),
        args.output,
        model,
        names,
        {"weights": checkpoint_hash(str(weights)), "opts": args.opts, **protocol},
        source=args.source,
        folder=_absolute(args.images) if args.tags and args.images else "",
        untagged=args.untagged,
        options=options,
        overwrite=args.overwrite,
    )
    print(f"{labeled} images are labeled, {rejected} rejected; written: {args.output}")


def _protocol(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args.protocol, name) for name in ("multi_scale", "flip", "crf")}


def _absolute(place: str) -> str:
    """Return a path as other processes know it; a URI as it is."""
    return place if "://" in place else str(Path(place).absolute())

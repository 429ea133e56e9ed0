# SPDX-License-Identifier: Apache-2.0
"""Pre-train a vision transformer of timm on photographs without labels (masked autoencoder).

    python -m dalnet_mae --list datasets/VOC2012/ImageSets/Segmentation/train_aug.txt \\
        --output output/mae/vit_tiny.safetensors

MODEL.VIT.WEIGHTS takes the resulting file. Beside it stand a .json file, which says what it was
trained on, and a folder of the same name with log and checkpoints. Interrupted, the same command
with --resume goes on.
"""

import argparse
from dataclasses import MISSING, fields
from pathlib import Path

import torch

from dalnet.data.datasets.catalog import datasets_root
from dalnet.engine.launch import one_sentence_errors
from dalnet.engine.pretrainer import open_log

from .pretrain import Plan, Recipe, pretrain, read_photographs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos",
        type=Path,
        default=datasets_root() / "VOC2012" / "JPEGImages",
        help="folder (default: $DETECTRON2_DATASETS/VOC2012/JPEGImages)",
    )
    parser.add_argument("--list", type=Path, help="file of the ids to take (default: all)")
    parser.add_argument(
        "--memory-side",
        type=int,
        default=256,
        help="short side of the photographs in memory, in pixels; default: %(default)s",
    )
    for f in (f for f in fields(Recipe) if f.default is not MISSING):
        text = f"{f.metadata['help']}; default: %(default)s"
        parser.add_argument(option(f.name), type=f.type, default=f.default, help=text)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=size,
        default=[],
        metavar="KEY=N",
        help="other sizes than timm's: patch_size, embed_dim, depth, num_heads, as in MODEL.VIT",
    )
    parser.add_argument("--output", type=Path, default=Path("output/mae/encoder.safetensors"))
    parser.add_argument("--preview", type=Path, help="PNG: photograph | masked | reconstruction")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--log-every", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--save-every", type=int, default=200, help="default: %(default)s")
    return parser.parse_args()


def option(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def size(text: str) -> tuple[str, int]:
    """Read KEY=N."""
    key, _, value = text.partition("=")
    return key, int(value)


def main() -> None:
    """Pre-train as the command line says."""
    args = vars(parse_args())
    args["sizes"] = dict(args["sizes"])
    with one_sentence_errors():
        recipe, plan = (
            kind(**{f.name: args[f.name] for f in fields(kind)}) for kind in (Recipe, Plan)
        )
        open_log(plan.folder)
        photographs = read_photographs(args["photos"], args["list"], args["memory_side"])
        pretrain(recipe, photographs, plan)


if __name__ == "__main__":
    main()

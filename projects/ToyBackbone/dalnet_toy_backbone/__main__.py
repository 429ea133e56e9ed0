# SPDX-License-Identifier: Apache-2.0
"""Pre-train the small ViT of the toy data set, as ImageNet does for the paper's ViT-B.

    python -m dalnet_toy_backbone

By default it overwrites the weights that come with dalnet: see dalnet/assets/README.md. With
--cnn resnet18 it trains the trunk of CLIMS's toy recipes, which MODEL.CNN.WEIGHTS takes.
Interrupted, the same command with --resume goes on.
"""

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger

from dalnet.errors import UsageError, one_sentence_errors
from dalnet.modeling.weight_files import weights_path

from .train import TrainOptions, evaluate, save_encoder, train


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dalnet_toy_backbone",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--iterations", type=int, default=TrainOptions.iterations)
    parser.add_argument("--seed", type=int, default=TrainOptions.seed)
    parser.add_argument("--cnn", default="", help="timm's name of a CNN to train instead")
    text = "default: output/toy_backbone.safetensors, of a CNN output/toy_<name>.safetensors"
    parser.add_argument("--output", type=Path, help=text)
    text = "of log and checkpoints (default: output/toy_backbone, of a CNN output/toy_<name>)"
    parser.add_argument("--folder", type=Path, help=text)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args()
    if args.iterations < 1 or args.seed < 0:
        parser.error("--iterations must be at least 1, and --seed at least 0")
    name = f"toy_{args.cnn}" if args.cnn else "toy_backbone"
    args.folder = args.folder or Path("output", name)
    args.output = args.output or Path("output", f"{name}.safetensors")
    return args


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    with one_sentence_errors():
        options = TrainOptions(iterations=args.iterations, seed=args.seed, cnn=args.cnn)
        try:
            for name in ("detectron2", "fvcore", __package__):
                setup_logger(str(args.folder), name=name)
            model = train(options, args.folder, args.resume)
        except OSError as error:
            hint = "name another folder, or make it usable"
            raise UsageError(error.strerror or str(error), error.filename or "", hint) from error
        path = weights_path(args.output)
        save_encoder(model, path)
        print(f"written: {path}")
        for classes in (False, True):
            evaluate(model, options, 32, classes)


if __name__ == "__main__":
    main()

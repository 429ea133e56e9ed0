# SPDX-License-Identifier: Apache-2.0
"""Pre-train the small ViT of the toy data set, as ImageNet does for the paper's ViT-B.

    python -m dalnet_toy_backbone

By default it overwrites the weights that come with the package: see dalnet/assets/README.md.
Interrupted, the same command with --resume goes on.
"""

import argparse
from pathlib import Path

from dalnet.engine.launch import one_sentence_errors
from dalnet.engine.pretrainer import open_log

from .train import ToyPlan, ToyRecipe, pretrain_toy


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iters", type=int, default=ToyRecipe.iters, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=ToyRecipe.seed, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ToyPlan.output, help="default: %(default)s")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=ToyPlan.checkpoint,
        help="folder of checkpoints, log and metrics; default: %(default)s",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser.parse_args()


def main() -> None:
    """Pre-train as the command line says."""
    args = parse_args()
    with one_sentence_errors():
        recipe = ToyRecipe(iters=args.iters, seed=args.seed)
        plan = ToyPlan(output=args.output, checkpoint=args.checkpoint, resume=args.resume)
        open_log(plan.folder)
        pretrain_toy(recipe, plan)


if __name__ == "__main__":
    main()

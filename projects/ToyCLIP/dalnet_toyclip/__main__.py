# SPDX-License-Identifier: Apache-2.0
"""Train a small CLIP on images and captions of the toy world, and see what it can do.

    python -m dalnet_toyclip train
    python -m dalnet_toyclip evaluate [FILE]
    python -m dalnet_toyclip export OUTPUT [FILE]
    python -m dalnet_toyclip texts OUTPUT [FILE]

FILE is what train writes: by default the weights that come with this package. Interrupted,
train goes on with --resume.
"""

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.modeling.weight_files import weights_path

from .cosines import measure_cosines
from .evaluate import embed_words, evaluate
from .files import WEIGHTS, export, load_small, save_small, save_texts
from .train import TrainOptions, train
from .words import EMPTY_WORDS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dalnet_toyclip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, and write the small file")
    training.add_argument("--iterations", type=int, default=TrainOptions.iterations)
    training.add_argument("--seed", type=int, default=TrainOptions.seed)
    folder = Path("output/toyclip")
    text = "of the small file (default: %(default)s)"
    training.add_argument("--output", type=Path, default=folder / WEIGHTS.name, help=text)
    training.add_argument("--folder", type=Path, default=folder, help="of log and checkpoints")
    training.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    evaluation = commands.add_parser("evaluate", help="print zero-shot figures and cosines")
    exporting = commands.add_parser("export", help="write the weights in OpenAI's layout")
    texts = commands.add_parser(
        "texts", help='write the embeddings of the classes and "background"'
    )
    for command in (exporting, texts):
        command.add_argument("output", type=Path, help="file to write, .safetensors")
    for command in (evaluation, exporting, texts):
        command.add_argument("file", type=Path, nargs="?", default=WEIGHTS)
    args = parser.parse_args()
    if args.command == "train" and (args.iterations < 1 or args.seed < 0):
        parser.error("--iterations must be at least 1, and --seed at least 0")
    return args


def main() -> None:
    """Do what the command line says."""
    args = parse_args()
    with one_sentence_errors():
        if args.command == "train":
            _train(args)
        elif args.command == "evaluate":
            _print_evaluation(args.file)
        elif args.command == "export":
            export(args.file, weights_path(args.output))
        else:
            names = [*TOY_CLASSES, EMPTY_WORDS[0]]
            texts = embed_words(load_small(args.file), names)
            save_texts(texts, names, weights_path(args.output))


def _train(args: argparse.Namespace) -> None:
    options = TrainOptions(iterations=args.iterations, seed=args.seed)
    try:
        for name in ("detectron2", "fvcore", __package__):
            setup_logger(str(args.folder), name=name)
        model = train(options, args.folder, args.resume)
    except OSError as error:
        raise UsageError(f"{error}", "folder", "name another folder, or make it usable") from error
    path = weights_path(args.output)
    save_small(model, path)
    print(f"written: {path}")


def _print_evaluation(file: Path) -> None:
    model = load_small(file)
    named = evaluate(model)
    named_table = tabulate(named.items(), ("named right", "%"), tablefmt="github", floatfmt=".1f")
    rows = [(kind, *pairs.summary()) for kind, pairs in measure_cosines(model).items()]
    headers = ("cosines", "fitting", "deviation", "other", "deviation", "halfway")
    print(named_table, tabulate(rows, headers, tablefmt="github", floatfmt=".3f"), sep="\n\n")


if __name__ == "__main__":
    main()

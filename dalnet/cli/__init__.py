# SPDX-License-Identifier: Apache-2.0
"""The command ``dalnet SUBCOMMAND``: one file of this folder a sub-command.

Each file has ``add_arguments(parser)`` and ``run(args)``, and its docstring is the help. Only the
file of the sub-command that is run is imported, so that help is quick and ``install-detectron2``
works before Detectron2 exists.
"""

import argparse
import io
import sys
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from dalnet import __version__
from dalnet.errors import UsageError, one_sentence_errors

COMMANDS = {
    "check": "check tagged images before a training",
    "train": "train a model with a recipe or a config file",
    "evaluate": "measure a trained model on a data set",
    "zero-shot": "measure an open-vocabulary system on the usual data sets",
    "predict": "segment your own images and videos",
    "label": "write label maps of tagged images, from their own tags",
    "figures": "draw the paper's figures for a trained model",
    "export": "write a trained model as one safetensors file or as ONNX",
    "report": "show a run as one HTML page",
    "sweep": "train several configs with several seeds and compare them",
    "prepare": "convert VOC, COCO or published label files into what dalnet reads",
    "demo": "train and evaluate on generated images",
    "install-detectron2": "install Detectron2 from PyPI",
    "info": "show versions, devices, recipes, and the folders of weights and data sets",
    "completion": "print a script with which a shell completes the command",
}

_WITHOUT_DETECTRON2 = ("install-detectron2", "completion")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 0, 1 after bad input, 2 after bad usage."""
    argv = sys.argv[1:] if argv is None else argv
    # A file name may have letters that the terminal cannot show, or bytes that are no text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    name = next((word for word in argv if not word.startswith("-")), "")
    with one_sentence_errors():
        _refuse_unknown(name)
        if name and not {"-h", "--help"} & {*argv}:
            _require_detectron2(name)
        parser = build_parser({name} & {*COMMANDS})
    args = parser.parse_args(argv)
    with one_sentence_errors(vars(args)):
        load_command(args.command).run(args)


def build_parser(commands: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all sub-commands, with the arguments of those in ``commands``.

    Raises:
        UsageError: Detectron2 is not installed, and one of ``commands`` needs it.
    """
    parser = argparse.ArgumentParser(
        prog="dalnet", description="Weakly supervised semantic segmentation from image-level labels"
    )
    parser.add_argument("--version", action="version", version=f"dalnet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="SUBCOMMAND", required=True)
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in commands:
            module = load_command(name)
            subparser.description = module.__doc__
            module.add_arguments(subparser)
    return parser


def load_command(name: str) -> ModuleType:
    """Import a sub-command's module.

    Raises:
        UsageError: Detectron2 is not installed, and the sub-command needs it.
    """
    try:
        return import_module(f"dalnet.cli.{name.replace('-', '_')}")
    except ImportError:
        _require_detectron2(name)
        raise


def _require_detectron2(name: str) -> None:
    """Refuse a sub-command that needs Detectron2 where it is not installed.

    Raises:
        UsageError: it is not installed.
    """
    if name not in _WITHOUT_DETECTRON2 and find_spec("detectron2") is None:
        raise UsageError("Detectron2 is not installed", hint="run: dalnet install-detectron2")


def _refuse_unknown(name: str) -> None:
    """Name the nearest sub-command where there is none of this name."""
    if name and name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}" if near else f"there are {', '.join(COMMANDS)}"
        raise UsageError("there is no such sub-command", where=f"dalnet {name}", hint=hint)

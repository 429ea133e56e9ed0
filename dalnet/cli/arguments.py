# SPDX-License-Identifier: Apache-2.0
"""Arguments that several sub-commands share: one name for one thing."""

import argparse
import os
import re
from collections.abc import Sequence

from dalnet.errors import UsageError

_NODES = "MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST"
_KEY = re.compile(rf"({_NODES})(\.[A-Z0-9_]+)+")  # of the config, as MODEL.DEVICE


def add_config(
    parser: argparse.ArgumentParser, text: str = "name of a recipe (see dalnet info) or a YAML file"
) -> None:
    """Add ``--config``; ``--config-file``, the name in Detectron2, is accepted too."""
    parser.add_argument("--config", metavar="NAME|FILE", help=text)
    parser.add_argument("--config-file", dest="config", help=argparse.SUPPRESS)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="checkpoint; or folder of a training (its newest checkpoint) or of a bundle; or "
        "hf-hub:OWNER/NAME. Sets MODEL.WEIGHTS",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add ``--split``."""
    text = "name of a registered data set, as voc_2012_sem_seg_val"
    parser.add_argument("--split", required=True, metavar="NAME", help=text)


def add_keys(
    parser: argparse.ArgumentParser,
    text: str = "config keys and their values, after all flags, as SOLVER.MAX_ITER 1000",
) -> None:
    """Add the trailing ``KEY VALUE ...``, which replace values of the config."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=text)


def split_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split what follows a flag that takes several values into these and config keys behind them.

    A file that is called like a key, as ``TEST.PNG``, is a value of the flag.
    """
    is_key = [bool(_KEY.fullmatch(word)) and not os.path.exists(word) for word in words]
    first = is_key.index(True) if any(is_key) else len(words)
    return list(words[:first]), list(words[first:])


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the flags for several processes and machines, by their names in Detectron2."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="GPUs of each machine; default: %(default)s")
    text = "processes of each machine, on the CPU; default: as many as GPUs"
    add("--num-processes", type=int, default=0, help=text)
    add("--num-machines", type=int, default=1, help="number of machines; default: %(default)s")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        help="address of the first process, as tcp://HOST:PORT; auto: this machine",
    )


def split_list(text: str) -> list[str]:
    """Split a comma-separated list; blank parts are left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def refuse_without_images(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse arguments that say something of the user's own images where ``images`` is not given.

    Raises:
        UsageError: one of ``names`` differs from its default.
    """
    for name in names:
        if getattr(args, name) not in (None, "", False, "unknown"):
            what = "it is of one's own images, whose folder is not named"
            raise UsageError(what, name, "name it by --images, or leave this out")

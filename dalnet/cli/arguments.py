# SPDX-License-Identifier: Apache-2.0
"""Arguments that several sub-commands share: one name for one thing."""

import argparse


def add_config(parser: argparse.ArgumentParser, text: str = "recipe or file") -> None:
    """Add ``--config``; ``--config-file``, the name in Detectron2, is accepted too."""
    parser.add_argument("--config", metavar="NAME|FILE", help=text)
    parser.add_argument("--config-file", dest="config", help=argparse.SUPPRESS)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights", metavar="PATH", help="checkpoint or folder of a training (MODEL.WEIGHTS)"
    )


def add_keys(parser: argparse.ArgumentParser, text: str = "config keys, at the end") -> None:
    """Add the trailing ``KEY VALUE ...``."""
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=text)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add how many processes run on how many machines, as Detectron2 names them."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="of each machine; default: %(default)s")
    add("--num-machines", type=int, default=1, help="default: %(default)s")
    add("--machine-rank", type=int, default=0, help="of this machine, from 0")
    add("--dist-url", default="auto", help="where processes meet; auto: on one machine")

# SPDX-License-Identifier: Apache-2.0
"""Print a script with which a shell completes dalnet's sub-commands and flags.

dalnet completion bash > ~/.local/share/bash-completion/completions/dalnet
"""

import argparse

import shtab


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from dalnet.cli import build_parser

    print(shtab.complete(build_parser(), args.shell))

# SPDX-License-Identifier: Apache-2.0
"""Train every run of a sweep file with every seed, and print mean and spread of the results.

    dalnet sweep --config sweeps/ablation_toy --seeds 1,2,3 --jobs 2
    dalnet sweep --config sweeps/ablation_toy --table-only --reference dalnet

A sweep file is a YAML file that names several configs; see configs/sweeps. If the sweep is
interrupted, the same command goes on where it stopped. Each training has one thread
(OMP_NUM_THREADS) and at most one GPU. The table goes to table.md and table.json in --output.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dalnet.config.load import find_config
from dalnet.errors import UsageError
from dalnet.sweep import TRAIN_COMMAND, run_sweep

from .arguments import add_keys, split_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("--config", required=True, metavar="NAME|FILE", help="sweep file, as sweeps/ablation_toy")
    text = "seeds that every run is trained with; default: %(default)s"
    add("--seeds", default="1,2,3", help=text)
    text = "train only these runs of the file (default: all)"
    add("--runs", default="", metavar="RUN,...", help=text)
    text = "how many trainings go on at the same time; default: %(default)s"
    add("--jobs", type=int, default=1, help=text)
    text = "folder to write to (default: output/sweeps/<name of the file>)"
    add("--output", type=Path, metavar="DIR", help=text)
    text = "run that the others are compared with, in one more column of the table"
    add("--reference", metavar="RUN", help=text)
    text = "train nothing; write the table of what is finished"
    add("--table-only", action="store_true", help=text)
    add_keys(parser, "config keys and their values, for all runs, after all flags")


def run(args: argparse.Namespace, train_command: Sequence[str] = TRAIN_COMMAND) -> None:
    """Run the sweep; ``train_command`` starts one training.

    Raises:
        UsageError: see :func:`dalnet.sweep.run_sweep`.
    """
    seeds = [word.strip() for word in args.seeds.split(",")]
    if not all(word.isdecimal() for word in seeds):
        raise UsageError(f"{args.seeds!r} are no integers", where="seeds", hint="as in 1,2,3")
    run_sweep(
        Path(find_config(args.config)),
        [int(seed) for seed in seeds],
        args.output,
        args.opts,
        runs=split_list(args.runs),
        jobs=args.jobs,
        reference=args.reference,
        table_only=args.table_only,
        train_command=train_command,
    )

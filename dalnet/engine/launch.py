# SPDX-License-Identifier: Apache-2.0
"""Start a program, in several processes where that is asked for."""

import argparse
import sys
from collections.abc import Callable

import torch
from detectron2.engine import launch
from torch.multiprocessing import ProcessExitedException

from dalnet.errors import UsageError, one_sentence_errors


def run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)``, in ``args.num_gpus`` processes a machine if that is more than one.

    A :class:`UsageError` becomes one sentence and exit status 1.
    """
    with one_sentence_errors(vars(args)):
        available = torch.cuda.device_count()
        if args.num_gpus > 1 and args.num_gpus > available:
            what = f"it is {args.num_gpus}, but this machine has {available} CUDA devices"
            raise UsageError(what, "num_gpus", f"set it to {max(available, 1)} or less")
    try:
        launch(
            _guarded,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except ProcessExitedException as error:
        # The process has already said its sentence.
        sys.exit(error.exit_code)


def _guarded(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    with one_sentence_errors(vars(args)):
        main(args)

# SPDX-License-Identifier: Apache-2.0
"""Train as train_net.py does; in one step, one process does something to itself.

The first arguments are its rank, the step, counted from 0, and what it does: the name of a signal
that it sends itself; "memory", as where a GPU's memory is full; or "late": it sleeps in this step,
and where it evaluates and saves. With ONCE in the environment, a file, which is then made, nothing
is done where that exists. Each process leaves a file with its id as name in the folder IDS.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from detectron2.utils import comm

from dalnet.engine import Trainer, run
from dalnet.engine.train import argument_parser
from dalnet.engine.train import main as train
from dalnet.modeling.meta_arch import DALNet

LATE = 3.0  # seconds


def act(how):
    if os.environ.get("ONCE"):
        Path(os.environ["ONCE"]).touch(exist_ok=False)
    if how == "memory":
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    if how == "late":
        time.sleep(LATE)
    else:
        os.kill(os.getpid(), getattr(signal, how))


def sleep_before(name):
    method = getattr(Trainer, name)

    def late(*args, **kwargs):
        time.sleep(LATE)
        return method(*args, **kwargs)

    setattr(Trainer, name, late)


def main(args):
    rank, step, how = args.failure
    Path(os.environ["IDS"], str(os.getpid())).touch()
    forward, steps = DALNet.forward, []

    def counted(self, batch):
        steps.append(None)
        if self.training and len(steps) == int(step) + 1:
            act(how)
        return forward(self, batch)

    has_failed = Path(os.environ.get("ONCE") or "-").exists()
    if comm.get_rank() == int(rank) and not has_failed:
        DALNet.forward = counted
        if how == "late":
            sleep_before("_evaluate")
            sleep_before("_save")
    train(args)


if __name__ == "__main__":
    failure, sys.argv[1:4] = sys.argv[1:4], []
    args = argument_parser().parse_args()
    args.failure = failure
    run(main, args)

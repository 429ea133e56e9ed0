# SPDX-License-Identifier: Apache-2.0
"""Start a program in one process or in several, with or without GPUs, or under ``torchrun``."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, spawn

from dalnet.errors import UsageError, one_sentence_errors

from .interruption import SIGNALS

Main = Callable[[argparse.Namespace], object]


@dataclass(frozen=True)
class Processes:
    """The processes of a program.

    Attributes:
        local: their number on each machine.
        machines: number of machines.
        machine_rank: number of this machine, from 0.
        url: where they meet, for ``torch.distributed``.
        use_gpus: one GPU each, over NCCL; else the CPU, over Gloo.
    """

    local: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "env://"
    use_gpus: bool = False

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Processes":
        """Read ``num_processes``, or of Detectron2's arguments ``num_gpus``, and the machines.

        Raises:
            UsageError: there are not as many GPUs.
        """
        available = torch.cuda.device_count()
        if args.num_gpus > max(available, 1):
            what = f"it is {args.num_gpus}, but this machine has {available} CUDA devices"
            raise UsageError(what, "num_gpus", f"set it to {max(available, 1)} or less")
        use_gpus = not args.num_processes and available > 0
        local = args.num_processes or max(args.num_gpus, 1)
        url = args.dist_url
        if url == "auto":
            if args.num_machines > 1:
                raise UsageError("several machines need an address", "dist_url", "name one")
            url = f"tcp://127.0.0.1:{_free_port()}"
        return cls(local, args.num_machines, args.machine_rank, url, use_gpus)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Processes":
        """Read what ``torchrun`` says of the processes that it has started."""
        local = int(environment["LOCAL_WORLD_SIZE"])
        machines, rank = int(environment["WORLD_SIZE"]) // local, int(environment["RANK"])
        use_gpus = torch.cuda.device_count() >= local
        return cls(local, machines, rank // local, use_gpus=use_gpus)

    @contextmanager
    def joined(self, local_rank: int) -> Iterator[None]:
        """Join the group of all processes, as number ``local_rank`` of this machine."""
        if self.use_gpus:
            torch.cuda.set_device(local_rank)
        else:
            # They share the cores.
            torch.set_num_threads(max(torch.get_num_threads() // self.local, 1))
        dist.init_process_group(
            "nccl" if self.use_gpus else "gloo",
            init_method=self.url,
            world_size=self.local * self.machines,
            rank=self.machine_rank * self.local + local_rank,
        )
        _set_local_group(self.local, self.machines, self.machine_rank)
        comm.synchronize()
        yield
        # Not after a failure: others may wait for this process then.
        dist.destroy_process_group()


def run(main: Main, args: argparse.Namespace) -> None:
    """Run ``main(args)`` in the processes that ``args`` or ``torchrun`` ask for.

    A :class:`UsageError` becomes one sentence and exit status 1. Signals reach all processes.
    """
    if "LOCAL_WORLD_SIZE" in os.environ and "RANK" in os.environ:
        with Processes.from_environment(os.environ).joined(int(os.environ["LOCAL_RANK"])):
            _guarded(main, args)
        return
    with one_sentence_errors(vars(args)):
        processes = Processes.from_arguments(args)
    if processes.local * processes.machines == 1:
        _guarded(main, args)
        return
    with one_sentence_errors(vars(args)):
        _run_processes(main, args, processes)


def _run_processes(main: Main, args: argparse.Namespace, processes: Processes) -> None:
    """Start the processes of this machine and wait for them.

    Raises:
        UsageError: the first one that a process has raised; others may have raised the same.
        SystemExit: with the status of the first process that did not end well.
    """
    context = spawn(_start, (main, args, processes), nprocs=processes.local, join=False)

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        while not context.join():
            pass
    except ProcessRaisedException as error:
        # It holds the traceback, as text.
        _, *sentence = str(error).rsplit("UsageError: ", 1)
        if sentence:
            raise UsageError(sentence[0].strip()) from None
        raise
    except ProcessExitedException as error:
        # A negative status is that of a signal.
        sys.exit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(local_rank: int, main: Main, args: argparse.Namespace, processes: Processes) -> None:
    try:
        with processes.joined(local_rank):
            main(args)
    except KeyboardInterrupt:
        # PyTorch would end the process with status 0.
        sys.exit(128 + signal.SIGINT)


def _guarded(main: Main, args: argparse.Namespace) -> None:
    with one_sentence_errors(vars(args)):
        main(args)


def _set_local_group(local: int, machines: int, machine_rank: int) -> None:
    """Tell Detectron2 which processes share a machine."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local)
        return
    # Version 0.5 does it inside its own launcher, which knows no processes without GPUs.
    for machine in range(machines):
        group = dist.new_group(list(range(machine * local, (machine + 1) * local)))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])

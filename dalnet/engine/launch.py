# SPDX-License-Identifier: Apache-2.0
"""Start a program in one process or in several, with or without GPUs, or under ``torchrun``."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from types import FrameType
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.elastic.multiprocessing.errors import record
from torch.multiprocessing import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    spawn,
)

from dalnet.errors import UsageError, one_sentence_errors

from .interruption import SIGNALS
from .waiting import LONGEST, connection_errors

Main = Callable[[argparse.Namespace], object]
# Seconds; PyTorch before 2.5 knows only its own half a minute.
_PATIENCE = (
    {"grace_period": 8.0} if "grace_period" in signature(ProcessContext.join).parameters else {}
)


@dataclass(frozen=True)
class Processes:
    """The processes of a program.

    Attributes:
        local: their number on each machine.
        machines: number of machines.
        machine_rank: number of this machine, from 0.
        url: where they meet: ``tcp://HOST:PORT`` of the first machine, whose port 0 stands for a
            free one; or ``env://``, as ``torchrun`` says.
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
            UsageError: there are not as many GPUs, or a number cannot be.
        """
        for name, least in (("num_gpus", 0), ("num_processes", 0), ("num_machines", 1)):
            if (number := getattr(args, name)) < least:
                raise UsageError(f"it is {number}", name, f"set it to {least} or more")
        if not 0 <= args.machine_rank < args.num_machines:
            what = f"it is {args.machine_rank} of {args.num_machines} machines"
            raise UsageError(what, "machine_rank", "number them from 0")
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
            url = "tcp://127.0.0.1:0"
        return cls(local, args.num_machines, args.machine_rank, url, use_gpus)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Processes":
        """Read what ``torchrun`` says of the processes that it has started."""
        local = int(environment["LOCAL_WORLD_SIZE"])
        machines, rank = int(environment["WORLD_SIZE"]) // local, int(environment["RANK"])
        use_gpus = torch.cuda.device_count() >= local
        return cls(local, machines, rank // local, use_gpus=use_gpus)

    @contextmanager
    def hosted(self) -> Iterator["Processes"]:
        """Open the place where processes meet, if it is on this machine; the port may change.

        The program that starts the processes has it, and not one of them. If one ends or hangs, the
        others still learn from one another which one it was.

        Raises:
            UsageError: the address cannot be used.
        """
        host, port = self._address()
        if self.machine_rank > 0:
            yield self
            return
        try:
            store = dist.TCPStore(host, port, is_master=True, wait_for_workers=False)
        except dist.DistError as error:
            what = f"{self.url} cannot be used ({str(error).splitlines()[0]})"
            raise UsageError(what, "dist_url", "name a free port of the first machine") from error
        yield (
            replace(self, url=f"{self.url.removesuffix(':0')}:{store.port}") if port == 0 else self
        )

    def _address(self) -> tuple[str, int]:
        address = urlsplit(self.url)
        try:
            host, port = address.hostname, address.port
        except ValueError:  # the port is no number
            host = port = None
        if address.scheme != "tcp" or host is None or port is None:
            raise UsageError(f"it is {self.url!r}", "dist_url", "name it as tcp://HOST:PORT")
        return host, port

    def _find_store(self) -> dist.Store:
        """Return the connection of one process to the place where all meet."""
        if self.url == "env://":
            store: dist.Store = next(dist.rendezvous(self.url, timeout=LONGEST))[0]
            # torchrun keeps it where it starts processes again, so that they would read the
            # addresses of those before (pytorch/pytorch#135712). Machines count on their own.
            restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            return dist.PrefixStore(restarts, store) if self.machines == 1 else store
        return dist.TCPStore(*self._address(), is_master=False, timeout=LONGEST)

    @contextmanager
    def joined(self, local_rank: int) -> Iterator[None]:
        """Join the group of all processes, as number ``local_rank`` of this machine.

        Raises:
            UsageError: another process has ended or hangs.
        """
        if self.use_gpus:
            torch.cuda.set_device(local_rank)
        else:
            # They share the cores.
            torch.set_num_threads(max(torch.get_num_threads() // self.local, 1))
        store = self._find_store()
        dist.init_process_group(
            "nccl" if self.use_gpus else "gloo",
            store=store,
            world_size=self.local * self.machines,
            rank=self.machine_rank * self.local + local_rank,
            timeout=LONGEST,
        )
        with connection_errors(store):
            _set_local_group(self.local, self.machines, self.machine_rank)
            comm.synchronize()
            yield


def run(main: Main, args: argparse.Namespace) -> None:
    """Run ``main(args)`` in the processes that ``args`` or ``torchrun`` ask for.

    A :class:`UsageError` becomes one sentence and exit status 1. Signals reach all processes.
    """
    if "LOCAL_WORLD_SIZE" in os.environ and "RANK" in os.environ:
        processes, local_rank = Processes.from_environment(os.environ), os.environ["LOCAL_RANK"]
        with one_sentence_errors(vars(args)):
            # torchrun's summary then has the error of the process that failed first.
            record(_start)(int(local_rank), main, args, processes)
        return
    with one_sentence_errors(vars(args)):
        processes = Processes.from_arguments(args)
        if processes.local * processes.machines == 1:
            main(args)
        else:
            _run_processes(main, args, processes)


def _run_processes(main: Main, args: argparse.Namespace, processes: Processes) -> None:
    """Start the processes of this machine and wait for them.

    Raises:
        UsageError: the first one that a process has raised; others may have raised the same.
        SystemExit: with the status of the first process that did not end well.
    """
    with processes.hosted() as processes:
        context = spawn(_start, (main, args, processes), nprocs=processes.local, join=False)

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in context.processes:
                if process.is_alive():
                    os.kill(process.pid, number)

        before = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            # After a failure the others have twice this time to end before they are killed.
            while not context.join(**_PATIENCE):
                pass
        except ProcessRaisedException as error:
            # It holds the traceback, as text.
            _, *sentence = str(error).rsplit("UsageError: ", 1)
            if sentence:
                raise UsageError(sentence[0].strip()) from None
            raise
        except ProcessExitedException as error:
            if error.exit_code >= 0:
                sys.exit(error.exit_code)
            rank = processes.machine_rank * processes.local + error.error_index
            killed = _killed(rank, error.signal_name, processes.use_gpus)
            print(f"error: {killed}", file=sys.stderr)
            sys.exit(128 - error.exit_code)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _killed(rank: int, signal_name: str | None, use_gpus: bool) -> UsageError:
    """Return the error for a process that a signal has ended."""
    hint = "the system sends it where memory runs out" if signal_name == "SIGKILL" else ""
    if signal_name == "SIGABRT" and use_gpus:
        hint = (
            "NCCL ends a process so that has waited too long for another one, or has lost it; if "
            "none hangs but one is slow, raise SOLVER.STEP_TIMEOUT"
        )
    return UsageError(f"this process was ended by {signal_name}", f"rank {rank}", hint)


def _start(local_rank: int, main: Main, args: argparse.Namespace, processes: Processes) -> None:
    status = None
    try:
        with processes.joined(local_rank):
            main(args)
    except KeyboardInterrupt:
        # PyTorch would end the process with status 0.
        sys.exit(128 + signal.SIGINT)
    except SystemExit as error:
        status = error.code
    if status is None or not processes.use_gpus:
        _leave_group()
    else:
        # NCCL's group would wait for others, which may not come after a failure.
        _leave_gloo()
    if status is not None:
        sys.exit(status)


def _leave_group() -> None:
    """Leave the group of all processes, and end the threads that Gloo has for it.

    A thread that still holds a tensor when the interpreter ends aborts the process
    (pytorch/pytorch#179291). The threads end with the last reference to their group: Detectron2 has
    two, and the model another one.
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()


def _leave_gloo() -> None:
    """End the threads of the group of Gloo that Detectron2 has beside one of NCCL."""
    if comm._get_global_gloo_group.cache_info().currsize:
        dist.destroy_process_group(comm._get_global_gloo_group())
        comm._get_global_gloo_group.cache_clear()
        gc.collect()


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

# SPDX-License-Identifier: Apache-2.0
"""Measure everything that needs a GPU, within a few minutes, and write it as JSON:

    python -m benchmarks.gpu --minutes 8 --output FILE [--only PART]
    python -m benchmarks.gpu pack --weights FILE     makes the folder of real images to carry along
    python -m benchmarks.gpu wheels FOLDER           makes the packages that such a machine lacks

Without a GPU every part runs in tiny sizes, which only shows that it works; docs/performance.md
says what each part measures.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.report import Report, card

# At most so many seconds each, in this order; the last has what is left.
PARTS = {
    "tests": 60,
    "kernels": 90,
    "step": 150,
    "loading": 45,
    "inference": 45,
    "training": math.inf,
}
# A process that has not ended so long after its time is killed.
_GRACE_S = 10


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Return the checked arguments; ``tiny`` is set where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/gpu.json"))
    parser.add_argument("--only", choices=PARTS, help="this part alone, with all of the time")
    parser.add_argument("--pack", type=Path, default=Path("gpu_pack"), help="default: %(default)s")
    parser.add_argument(
        "--size",
        choices=("full", "tiny"),
        default="tiny" if card() == "no GPU" else "full",
        help="default: full with a GPU, tiny without one",
    )
    return parser.parse_args(argv)


def run_in_process(
    part: str, module: str, args: argparse.Namespace, limit: float, grace: float = _GRACE_S
) -> None:
    """Run one part for ``limit`` seconds, and kill it ``grace`` seconds later."""
    job = {
        "part": part,
        "module": module,
        "tiny": args.size == "tiny",
        "pack": str(args.pack),
        "until": time.time() + limit,
        "output": str(args.output),
    }
    command = [sys.executable, "-m", "benchmarks.gpu", "part", json.dumps(job)]
    process = subprocess.Popen(command, env=_environment(args.pack), start_new_session=True)
    try:
        status = process.wait(limit + grace)
        failure = f"the process ended with status {status}" if status else ""
    except subprocess.TimeoutExpired:
        failure = f"killed after {limit + grace:.0f} s"
    finally:
        # With whatever it has started, as workers that load data.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if failure:
        Report(args.output).add(part, {"name": "the rest", "failed": failure})


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts in turn, and print the table; returns 1 if anything failed."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("pack", "part", "wheels"):
        importlib.import_module(f"benchmarks.gpu.{argv[0]}").main(argv[1:])
        return 0
    args = parse_args(argv)
    end = time.time() + 60 * args.minutes
    report = Report(args.output)
    report.start()
    print(f"{card()}, {args.size} sizes, {args.minutes:g} minutes, {args.output}", flush=True)
    for part, limit in PARTS.items():
        if args.only not in (None, part):
            continue
        left = end - time.time()
        if left <= 0:
            report.add(part, {"name": "all", "not_run": "the time was up"})
            continue
        # Tiny sizes are to run to their end, however slow the machine.
        limit = left if args.only or args.size == "tiny" else min(limit, left)
        print(f"{part}: at most {limit:.0f} s", flush=True)
        run_in_process(part, f"benchmarks.gpu.{part}", args, limit)
    print(report.table())
    return int(any("failed" in row for row in report.rows()))


def _environment(pack_folder: Path) -> dict[str, str]:
    """Return the environment of a part: the pack is its data set, unless another is named."""
    environment = dict(os.environ)
    if (pack_folder / "VOC2012").is_dir():
        environment.setdefault("DETECTRON2_DATASETS", str(pack_folder.absolute()))
    return environment


if __name__ == "__main__":
    sys.exit(main())

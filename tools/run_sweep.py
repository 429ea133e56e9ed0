#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train every run of a sweep file with every seed, and print mean and spread of the results.

    python tools/run_sweep.py configs/sweeps/ablation_toy.yaml --seeds 1,2,3 --jobs 2
    python tools/run_sweep.py configs/sweeps/ablation_toy.yaml --seeds 1,2,3 --table-only \\
        --reference dalnet

Interrupted, the same command goes on. Trainings share the cores (OMP_NUM_THREADS) and, if there
are several, take turns on the GPUs. The table goes to table.md and table.json in --output.
"""

import argparse
import sys
from pathlib import Path

from dalnet.engine.launch import one_sentence_errors
from dalnet.engine.sweep import Settings, report_table, run_sweep
from dalnet.engine.sweep_plan import parse_seeds, read_sweep

TRAIN = Path(__file__).resolve().parent.parent / "train_net.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="YAML file, see configs/sweeps")
    parser.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    parser.add_argument("--runs", metavar="RUN,...", help="only these of the file (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--output", type=Path, help="folder (default: output/sweeps/<sweep>)")
    parser.add_argument("--reference", metavar="RUN", help="compare the others with it")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("opts", nargs="*", help="KEY VALUE ... for all runs")
    args = parser.parse_intermixed_args()
    with one_sentence_errors():
        output = args.output or Path("output/sweeps") / args.sweep.stem
        chosen = args.runs.split(",") if args.runs else None
        jobs = read_sweep(args.sweep, parse_seeds(args.seeds), output, args.opts, chosen)
        if args.table_only:
            report_table(jobs, output, args.reference)
        else:
            command = [sys.executable, str(TRAIN)]
            run_sweep(jobs, Settings(command, output, args.jobs, args.reference))


if __name__ == "__main__":
    main()

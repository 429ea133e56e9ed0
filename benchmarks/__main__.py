# SPDX-License-Identifier: Apache-2.0
"""Compare the numerical kernels with plain transcriptions of the published algorithms.

    python -m benchmarks --only par,lattice --device cpu

Prints a table and writes the rows to benchmarks/results.json, where rows of cases that were not
selected keep their figures. "ratio" is plain/ours, "peak MB" the memory above the inputs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.cases import CASES
from benchmarks.harness import FIELDS, Case, empty_row, obstacle, run_case
from benchmarks.inputs import photograph_folder
from benchmarks.results import Row, update_rows
from dalnet.engine.launch import one_sentence_errors

_RESULTS = Path(__file__).with_name("results.json")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [case.name for case in CASES]
    parser.add_argument("--only", help=f"of {','.join(names)}, separated by commas (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda", "all"), default="all")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results.json")
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny inputs, to see that everything runs; not written without --output",
    )
    args = parser.parse_args(argv)
    args.only = args.only.split(",") if args.only else names
    if unknown := sorted(set(args.only) - set(names)):
        parser.error(f"--only: unknown {', '.join(unknown)}; there are {', '.join(names)}")
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if args.output is None and not args.small:
        args.output = _RESULTS
    return args


def selected(args: argparse.Namespace) -> list[tuple[Case, str]]:
    """Cases and devices that the arguments name, in the order of the table."""
    return [
        (case, device)
        for case in CASES
        for device in case.devices
        if case.name in args.only and args.device in (device, "all")
    ]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run what the arguments name; returns the new rows."""
    args = parse_args(argv)
    folder = photograph_folder()
    print(f"inputs: {'photographs of ' + str(folder) if folder else 'synthetic pictures'}")
    rows, notes = [], []
    for case, device in selected(args):
        print(f"{case.name} on {device} ...", flush=True)
        note = obstacle(case, device)
        row = empty_row(case, device) if note else run_case(case, device, args.small, args.repeats)
        rows.append(row)
        notes.append(note)
        if args.output is not None:
            # After every row: an interrupted run keeps what it has.
            update_rows(args.output, [row])
    table = [[*row.values(), note] for row, note in zip(rows, notes, strict=True)]
    headers = [field.replace("_", " ") for field in FIELDS]
    print(tabulate(table, [*headers, ""], floatfmt=".3g"))
    return rows


if __name__ == "__main__":
    with one_sentence_errors():
        main()

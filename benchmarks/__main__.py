# SPDX-License-Identifier: Apache-2.0
"""Compare the numerical kernels and the training step with plain transcriptions of the published
algorithms, on the CPU:

    python -m benchmarks --only par,lattice --output FILE

"ratio" is the plain form's time over ours; memory is what PyTorch allocates above the inputs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.cases import CASES
from benchmarks.compare import Row, compare
from dalnet.errors import one_sentence_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [case.name for case in CASES]
    parser.add_argument("--only", help=f"of {','.join(names)}, separated by commas (default: all)")
    parser.add_argument("--tiny", action="store_true", help="only to see that everything runs")
    parser.add_argument("--output", type=Path, help="write the rows there, as JSON")
    args = parser.parse_args(argv)
    args.only = args.only.split(",") if args.only else names
    if unknown := sorted(set(args.only) - set(names)):
        parser.error(f"--only: unknown {', '.join(unknown)}; there are {', '.join(names)}")
    return args


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run what the arguments name on the CPU, and return the rows."""
    args = parse_args(argv)
    rows: list[Row] = []
    for case in CASES:
        if case.name not in args.only or "cpu" not in case.devices:
            continue
        print(f"{case.name} ...", flush=True)
        try:
            rows.append(compare(case, "cpu", args.tiny))
        except ImportError as error:
            print(f"{case.name}: {error}")
        if args.output is not None:
            # After every row: an interrupted run keeps what it has.
            args.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(tabulate(rows, headers="keys", floatfmt=".3g"))
    return rows


if __name__ == "__main__":
    with one_sentence_errors():
        main()

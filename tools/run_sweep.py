#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train every run of a sweep file with every seed, and print mean and spread of the results.

    python tools/run_sweep.py configs/sweeps/ablation_toy.yaml --seeds 1,2,3 --jobs 2
    python tools/run_sweep.py configs/sweeps/ablation_toy.yaml --seeds 1,2,3 --table-only \\
        --reference dalnet

Interrupted, the same command goes on. Each training has one thread (OMP_NUM_THREADS) and, where
there are several GPUs, one of them. The table goes to table.md and table.json in --output.
"""

import argparse

from dalnet.engine.launch import one_sentence_errors
from dalnet.sweep import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    with one_sentence_errors():
        run(parser.parse_intermixed_args())

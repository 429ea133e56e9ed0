# SPDX-License-Identifier: Apache-2.0
"""Training images that one worker process reads and augments a second, by what it makes of them.

python -m benchmarks.loading --config-file configs/voc_dalnet.yaml --images 100
"""

import argparse
import time
from collections.abc import Sequence

import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate

from benchmarks.inference import make_config
from dalnet.data import build_mapper
from dalnet.engine.launch import one_sentence_errors

# Each as options of the config.
_WAYS = {
    "the recipe": (),
    "without altered colours": ("INPUT.PHOTOMETRIC", False),
    "the main view alone": (
        *("INPUT.MULTI_CROP.GLOBAL_VIEWS", 1),
        *("INPUT.MULTI_CROP.LOCAL_VIEWS", 0),
    ),
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="configs/voc_dalnet.yaml")
    parser.add_argument("--images", type=int, default=100, help="default: %(default)s")
    parser.add_argument("opts", nargs="*", help="KEY VALUE ... of the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)  # as in a worker
    rows = []
    for way, options in _WAYS.items():
        cfg = make_config(args.config_file, [*args.opts, *options])
        mapper = build_mapper(cfg, is_train=True)
        dicts = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[: args.images]
        seed_all_rng(0)
        mapper(dicts[0])
        # Of the processor: a busy machine does not make the worker slower.
        start = time.process_time()
        for record in dicts:
            mapper(record)
        rows.append([way, len(dicts) / (time.process_time() - start)])
    print(tabulate(rows, ["views", "images/s of one core"], "github", floatfmt=".1f"))


if __name__ == "__main__":
    with one_sentence_errors():
        main()

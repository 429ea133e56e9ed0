# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded toy data set: train, evaluate, and a picture of the results."""

import argparse
import os
from itertools import chain, islice
from pathlib import Path

from detectron2.engine import default_argument_parser

from dalnet.data.datasets.catalog import class_table
from dalnet.engine import DALNetTrainer, run, setup
from dalnet.visualization import collect_rows, save_sheet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "toy_dalnet.yaml"
NUM_ROWS = 8


def main(args: argparse.Namespace) -> None:
    """Train and evaluate ``args.config_file``, then write the contact sheet."""
    cfg = setup(args)
    trainer = DALNetTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()

    dataset_name = cfg.DATASETS.TEST[0]
    inputs = chain.from_iterable(trainer.build_test_loader(cfg, dataset_name))
    rows = collect_rows(trainer.model, islice(inputs, NUM_ROWS))
    report = os.path.join(cfg.OUTPUT_DIR, "report.png")
    save_sheet(report, rows, *class_table(dataset_name), f"DALNet on {dataset_name}")
    seg, cam = results["sem_seg"]["mIoU"], results["cam"]["mIoU"]
    print(f"demo: seg mIoU = {seg:.1f}, CAM mIoU = {cam:.1f}\n{report}")


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.set_defaults(config_file=str(CONFIG))
    run(main, parser.parse_args())

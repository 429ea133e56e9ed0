# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded toy data set: train, evaluate, and a picture of the results."""

import argparse
import os
from itertools import chain, islice
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from dalnet.data.datasets.catalog import class_table
from dalnet.engine import DALNetTrainer, load_model, run, setup
from dalnet.errors import UsageError
from dalnet.figures.sheet import collect_rows, save_sheet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "toy_dalnet.yaml"
NUM_ROWS = 8


def main(args: argparse.Namespace) -> None:
    """Train and evaluate ``args.config_file``, or only evaluate; then write the contact sheet."""
    cfg = setup(args, _evaluate_cams)
    if args.eval_only:
        model = load_model(cfg, args.resume)
        results = DALNetTrainer.test(cfg, model)
    else:
        trainer = DALNetTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        model, results = trainer.model, trainer.train()
    if comm.is_main_process():
        report = _draw(cfg, getattr(model, "module", model))
        # A split without image-level labels has no CAMs.
        names = {"sem_seg": "seg", "cam": "CAM"}
        found = [f"{names[k]} mIoU = {results[k]['mIoU']:.1f}" for k in names if k in results]
        print(f"demo: {', '.join(found)}\n{report}")


def _evaluate_cams(cfg: CfgNode) -> None:
    if len(cfg.DATASETS.TEST) != 1:
        raise UsageError("The demo shows one split: name it as DATASETS.TEST.")
    cfg.TEST.EVAL_CAM = True


def _draw(cfg: CfgNode, model: nn.Module) -> str:
    """Write the contact sheet of the first images; returns its path."""
    dataset_name = cfg.DATASETS.TEST[0]
    inputs = chain.from_iterable(DALNetTrainer.build_test_loader(cfg, dataset_name))
    rows = collect_rows(model, islice(inputs, NUM_ROWS))
    path = os.path.join(cfg.OUTPUT_DIR, "report.png")
    save_sheet(path, rows, *class_table(dataset_name), f"DALNet on {dataset_name}")
    return path


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.set_defaults(config_file=str(CONFIG))
    run(main, parser.parse_args())

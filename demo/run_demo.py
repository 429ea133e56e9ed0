# SPDX-License-Identifier: Apache-2.0
"""The main job on the embedded toy data set: train, evaluate, and a picture of the results."""

import argparse
from pathlib import Path

import dalnet  # noqa: F401  before torch: it sets how OpenMP waits

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from dalnet.checkpoint import load_model
from dalnet.config import load_config
from dalnet.engine import Trainer, run, setup
from dalnet.errors import UsageError
from dalnet.figures.images import predict_images
from dalnet.figures.layout import save_figure
from dalnet.figures.sheet import draw_sheet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "toy_dalnet.yaml"
NUM_ROWS = 8


def main(args: argparse.Namespace) -> None:
    """Train and evaluate ``args.config_file``, or only evaluate; then write the contact sheet."""
    cfg = load_config(args.config_file, args.opts)
    if len(cfg.DATASETS.TEST) != 1:
        raise UsageError("The demo shows one split: name it as DATASETS.TEST.")
    cfg.TEST.EVAL_CAM = True
    processes = max(args.num_gpus, 1) * args.num_machines
    setup(cfg, eval_only=args.eval_only, resume=args.resume, num_processes=processes)
    if args.eval_only:
        model = load_model(cfg, args.resume)
        results = Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        model, results = trainer.model, trainer.train()
    if comm.is_main_process():
        report = _draw(cfg, getattr(model, "module", model))
        # A split without image-level labels has no CAMs.
        names = {"sem_seg": "seg", "cam": "CAM"}
        found = [f"{names[k]} mIoU = {results[k]['mIoU']:.1f}" for k in names if k in results]
        print(f"demo: {', '.join(found)}\n{report}")


def _draw(cfg: CfgNode, model: nn.Module) -> Path:
    """Write the contact sheet of the first images; returns its path."""
    split = cfg.DATASETS.TEST[0]
    results = list(predict_images(cfg, model, split, DatasetCatalog.get(split)[:NUM_ROWS]))
    path = Path(cfg.OUTPUT_DIR, "report.png")
    save_figure(path, draw_sheet(results, split, f"DALNet on {split}"), dpi=120)
    return path


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.set_defaults(config_file=str(CONFIG))
    run(main, parser.parse_args())

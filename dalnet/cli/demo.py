# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate on generated images, and draw what came out.

    dalnet demo
    dalnet demo --eval-only --weights output/demo/model_final.pth

The images are generated when the demo starts. Results go to output/demo, in place of those of an
earlier demo; report.png there shows the first images with truth, CAM and prediction. The flags are
those of "dalnet train" with a config.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from dalnet.checkpoint import load_model
from dalnet.config import load_config
from dalnet.engine import Trainer, setup
from dalnet.engine import run as launch
from dalnet.engine.train import run_training
from dalnet.errors import UsageError
from dalnet.figures.images import predict_images
from dalnet.figures.layout import save_figure
from dalnet.figures.sheet import draw_sheet
from dalnet.modeling.meta_arch import WeakSegmentor

from . import train

_RECIPE, _FOLDER = "toy_dalnet", "output/demo"
_NUM_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``: those of ``dalnet train`` with a config."""
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate and draw, without a training"
    )
    train.add_arguments(parser, own_images=False)
    parser.set_defaults(config=_RECIPE)


def run(args: argparse.Namespace) -> None:
    """Train and evaluate, or only evaluate; print the mIoU and write ``report.png``.

    Raises:
        UsageError: the config or the machine cannot be used.
    """
    launch(main, train.training_arguments(args))


def main(args: argparse.Namespace) -> None:
    """Do the work of :func:`run` in one process."""
    own = ("OUTPUT_DIR", _FOLDER) if args.config_file == _RECIPE else ()
    cfg = load_config(args.config_file, [*own, *args.opts])
    if len(cfg.DATASETS.TEST) != 1:
        raise UsageError("the demo shows one split", where="DATASETS.TEST", hint="name one")
    cfg.TEST.EVAL_CAM = True
    # The demo's own folder holds an earlier demo at most, which may be replaced.
    again = cfg.OUTPUT_DIR == _FOLDER and not args.resume
    modes = {"resume": args.resume, "overwrite": args.overwrite or again}
    if args.eval_only:
        setup(cfg, eval_only=True, resume=args.resume)
        model = load_model(cfg, args.resume)
        results = Trainer.test(cfg, model)
    else:
        trainer = run_training(cfg, **modes)
        model, results = trainer.model, trainer.results or {}
    if comm.is_main_process():
        unwrapped = getattr(model, "module", model)
        assert isinstance(unwrapped, WeakSegmentor)
        report = _draw(cfg, unwrapped)
        # A split without image-level labels has no CAMs.
        names = {"sem_seg": "seg", "cam": "CAM"}
        found = [f"{names[k]} mIoU = {results[k]['mIoU']:.1f}" for k in names if k in results]
        print(f"demo: {', '.join(found)}\n{report}")


def _draw(cfg: CfgNode, model: WeakSegmentor) -> Path:
    """Write the first images with truth, CAMs and prediction; return the file's path."""
    split = cfg.DATASETS.TEST[0]
    results = list(predict_images(cfg, model, split, DatasetCatalog.get(split)[:_NUM_IMAGES]))
    path = Path(cfg.OUTPUT_DIR, "report.png")
    save_figure(path, draw_sheet(results, split, f"DALNet on {split}"), dpi=120)
    return path

# SPDX-License-Identifier: Apache-2.0
"""Writes a run as one HTML page: results and curves from disk, a gallery by running the model."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import dalnet
from dalnet.checkpoint import checkpoint_hash, load_model
from dalnet.data.datasets.catalog import class_table
from dalnet.errors import UsageError
from dalnet.evaluation.results import Result, read_results
from dalnet.evaluation.sources import model_measurements
from dalnet.figures.images import Record
from dalnet.figures.overlay import choose_colors
from dalnet.io import read_bytes
from dalnet.pages import write_html

from .gallery import make_gallery
from .page import render_page

MAX_IMAGES = 40
_MAX_ITERATION = 1 << 53  # above which floating-point numbers skip integers
_NO_METRICS = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)

logger = logging.getLogger(__name__)


def write_report(
    cfg: CfgNode,
    split: str,
    output: Path,
    *,
    config_name: str | None = None,
    run: Path | None = None,
    results: Sequence[Path] = (),
    images: int = 8,
    colorblind: bool = False,
    open_masks: bool = True,
) -> None:
    """Write the report on ``MODEL.WEIGHTS``.

    Args:
        cfg: frozen, of the model, with ``TEST.EVAL_CAM``.
        split: a registered data set.
        output: the HTML file, written under a temporary name until it is complete.
        config_name: name of the config file, for the headline; None: the name of ``run``.
        run: folder with the training's ``metrics.json``; None: the folder of the weights.
        results: ``results.json`` files; if empty, those of the split in ``run``.
        images: number of images in each group of the gallery, 1 to :data:`MAX_IMAGES`.
        colorblind: use colors that color-blind readers can tell apart.
        open_masks: whether masks of the split may be opened, to show and score predictions.

    Raises:
        UsageError: settings or files that do not fit, as results of other weights.
    """
    records = DatasetCatalog.get(split)
    if not open_masks:
        records = [{k: v for k, v in one.items() if k != "sem_seg_file_name"} for one in records]
    _check_request(split, records, run, images)
    run = run or Path(cfg.MODEL.WEIGHTS).parent
    # Before the model is run, so that a wrong file is found at once.
    weights = checkpoint_hash(cfg.MODEL.WEIGHTS)
    usual = run / "evaluation" / split / "results.json"  # of the training; others lie below it
    lying = [*usual.parent.glob("results.json"), *sorted(usual.parent.glob("*/results.json"))]
    found = _read_results(results, weights) if results else _read_own(lying, weights)
    metrics, model = read_metrics(run / "metrics.json"), load_model(cfg)
    class_names, class_colors = class_table(split)
    colors = choose_colors(class_colors, (), colorblind)
    page = render_page(
        title=f"{Path(config_name or run.resolve().name).stem} on {split}",
        split=split,
        records=records,
        facts=_facts(config_name, cfg.MODEL.WEIGHTS, weights),
        results=found,
        usual_results=usual,
        measured=model_measurements(cfg, model.sources),
        metrics=metrics,
        cards=make_gallery(cfg, model, split, records, images, colors, colorblind),
        class_names=class_names,
        colors=colors,
    )
    write_html(output, page)


def _facts(config_name: str | None, file: str, weights: str) -> dict[str, str]:
    """Return what the report says about itself, by heading."""
    return {
        "config": config_name or "in the checkpoint",
        "weights": file,
        "weights sha256": weights,
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "dalnet": dalnet.__version__,
    }


def _check_request(split: str, records: Sequence[Record], run: Path | None, images: int) -> None:
    """Raise ``UsageError`` where the arguments of :func:`write_report` cannot be met."""
    if not 1 <= images <= MAX_IMAGES:
        hint = f"choose 1 to {MAX_IMAGES}, as the page holds all of them"
        raise UsageError(f"it is {images}", "images", hint)
    if not records:
        raise UsageError("it has no images", split, "name another split")
    if run is not None and not run.is_dir():
        raise UsageError(f"{run} is no folder", "run", "name the one of the training")


def _read_results(paths: Sequence[Path], weights: str) -> dict[str, Result]:
    """Return results by the name of their file; refuse those of other weights."""
    found = {str(path): read_results(path) for path in paths}
    for name, result in found.items():
        if result["weights_sha256"] not in (weights, None):
            hint = "evaluate these weights, or name results of theirs"
            raise UsageError(f"it was measured with other weights than {weights}", name, hint)
    return found


def _read_own(paths: Sequence[Path], weights: str) -> dict[str, Result]:
    """Return the results in a run's folder that were measured with its weights, by file name."""
    found: dict[str, Result] = {}
    for path in paths:
        try:
            found |= _read_results([path], weights)
        except UsageError as error:  # as of a checkpoint before the training went on
            logger.warning("Left out: %s", error)
    return found


def read_metrics(path: Path) -> dict[str, dict[float, float | None]]:
    """Return the values in Detectron2's ``metrics.json``, by key and iteration; empty without it.

    Where a resumed training has repeated iterations, the later values replace the earlier ones.
    Lines that hold no metrics, as one cut short when the process was killed, are left out with a
    warning.
    """
    metrics: dict[str, dict[float, float | None]] = {}
    text = read_bytes(path).decode("utf-8", "replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values = json.loads(line)
            iteration = float(values.pop("iteration"))
            if not 0 <= iteration <= _MAX_ITERATION:
                raise ValueError(f"the iteration is {iteration}")
            read = {key: None if value is None else float(value) for key, value in values.items()}
        except _NO_METRICS:
            logger.warning("%s: line %d is left out, as it is no metrics", path, number)
            continue
        for key, value in read.items():
            curve = metrics.setdefault(key, {})
            while curve and next(reversed(curve)) >= iteration:
                curve.popitem()
            curve[iteration] = value
    return metrics

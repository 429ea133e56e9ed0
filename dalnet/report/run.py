# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML page: its results and curves from disk, its gallery by running the model."""

import json
from collections.abc import Iterator, Mapping, Sequence
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
from dalnet.io import atomic_write

from .gallery import make_gallery
from .page import Metrics, render_page

MAX_IMAGES = 40


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
) -> None:
    """Write the report on ``MODEL.WEIGHTS``.

    Args:
        cfg: frozen, of the model, with ``TEST.EVAL_CAM``.
        split: a registered data set.
        output: the HTML file, written under a temporary name until it is complete.
        config_name: of the config file, for the headline; the name of ``run`` if None.
        run: folder of the training's ``metrics.json``; the folder of the weights if None.
        results: ``results.json`` files; if there are none, that of the split in ``run``.
        images: of each group in the gallery, 1 to :data:`MAX_IMAGES`.
        colorblind: use colors that color-blind readers can tell apart.

    Raises:
        UsageError: settings or files that do not fit.
    """
    records = DatasetCatalog.get(split)
    _check_request(split, records, run, images)
    run = run or Path(cfg.MODEL.WEIGHTS).parent
    usual = run / "evaluation" / split / "results.json"
    # Before the long part, so that a wrong file is found at once.
    found = {str(p): read_results(p) for p in results or [usual] if results or p.exists()}
    metrics = read_metrics(run / "metrics.json")
    model, weights = load_model(cfg), checkpoint_hash(cfg.MODEL.WEIGHTS)
    measured = model_measurements(cfg, model.sources)
    class_names, class_colors = class_table(split)
    colors = choose_colors(class_colors, (), colorblind)
    page = render_page(
        title=f"{Path(config_name or run.resolve().name).stem} on {split}",
        facts=_make_facts(cfg, config_name or "in the checkpoint", split, records, weights),
        notes=list(_make_notes(usual, split, records, found, metrics, weights)),
        results=found,
        source_titles={one.source: one.title for one in measured},
        metrics=metrics,
        cards=make_gallery(cfg, model, split, records, images, colors, colorblind),
        gallery_text="; ".join(
            f"{one.title}: {one.protocol}, scales {', '.join(map(str, one.scales))}"
            for one in measured
            if one.source != "cam_inter"
        ),
        class_names=class_names,
        colors=colors,
    )
    with atomic_write(output) as unfinished:
        # Names of files need not be valid text.
        unfinished.write_text(page, encoding="utf-8", errors="replace")


def _check_request(split: str, records: Sequence[Record], run: Path | None, images: int) -> None:
    """Raise ``UsageError`` where the arguments of :func:`write_report` cannot be met."""
    if not 1 <= images <= MAX_IMAGES:
        raise UsageError(f"{images} images: choose 1 to {MAX_IMAGES}, the page holds all of them.")
    if not records:
        raise UsageError(f"{split} has no images; name another split.")
    if run is not None and not run.is_dir():
        raise UsageError(f"{run} is no folder: name the one of the training.")


def _make_facts(
    cfg: CfgNode, config_name: str, split: str, records: Sequence[Record], weights: str
) -> dict[str, str]:
    """Return what was run, by name, for the head of the page."""
    masks = sum("sem_seg_file_name" in record for record in records)
    return {
        "config": config_name,
        "split": split,
        "images": f"{len(records)}, {masks} of them with a mask",
        "weights": cfg.MODEL.WEIGHTS,
        "weights sha256": weights,
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "dalnet": dalnet.__version__,
    }


def _make_notes(
    usual: Path,
    split: str,
    records: Sequence[Record],
    results: Mapping[str, Result],
    metrics: Metrics,
    weights: str | None,
) -> Iterator[str]:
    """Yield what the page lacks and what the reader has to know, in sentences."""
    if not results:
        yield f"No results table and no IoU by class: there is no {usual}."
    if not metrics:
        yield "No curves of the training: metrics.json holds none."
    for name, result in results.items():
        if result["weights_sha256"] not in (weights, None):
            yield f"{name} was measured with other weights than the gallery shows."
        if result["split"] != split:
            yield f"{name} was measured on {result['split']}, not {split}."
    without = sum("sem_seg_file_name" not in record for record in records)
    if without == len(records):
        yield f"No best and worst images and no truth: {split} has no masks."
    elif without:
        yield f"{without} of {len(records)} images have no mask: they are neither best nor worst."
    if not any(record["image_labels"] for record in records):
        yield f"No CAMs and pseudo labels: {split} has no labels of its images."


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """Read Detectron2's ``metrics.json``: by key its values by iteration; empty without a file.

    A line that a kill has cut is skipped. Where a resumed training has gone over an iteration
    again, the later value counts.
    """
    metrics: dict[str, dict[int, float]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        iteration = values.pop("iteration")
        for key, value in values.items():
            metrics.setdefault(key, {})[iteration] = value
    return metrics

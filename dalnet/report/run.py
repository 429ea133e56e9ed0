# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML page: its results and curves from disk, its gallery by running the model."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import dalnet
from dalnet.checkpoint import checkpoint_hash, load_model
from dalnet.data.datasets.catalog import class_table
from dalnet.errors import UsageError
from dalnet.evaluation.results import read_results
from dalnet.evaluation.sources import model_measurements
from dalnet.figures.colors import choose_colors
from dalnet.figures.images import Record
from dalnet.files import complete_or_absent

from .files import read_metrics
from .gallery import make_gallery
from .page import render_page

MAX_IMAGES = 40


def write_report(
    cfg: CfgNode,
    split: str,
    output: Path,
    *,
    config_name: str,
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
        config_name: of the config file, for the headline.
        run: folder of the training's ``metrics.json``; the folder of the weights if None.
        results: ``results.json`` files; if there are none, that of the split in ``run``.
        images: of each group in the gallery, 1 to :data:`MAX_IMAGES`.
        colorblind: use colors that color-blind readers can tell apart.

    Raises:
        UsageError: settings or files that do not fit.
    """
    if not 1 <= images <= MAX_IMAGES:
        raise UsageError(f"{images} images: choose 1 to {MAX_IMAGES}, the page holds all of them.")
    records = DatasetCatalog.get(split)
    if not records:
        raise UsageError(f"{split} has no images; name another split.")
    if run is not None and not run.is_dir():
        raise UsageError(f"{run} is no folder: name the one of the training.")
    run = run or Path(cfg.MODEL.WEIGHTS).parent
    notes = []
    # Before the long part, so that a wrong file is found at once.
    usual = run / "evaluation" / split / "results.json"
    found = {str(p): read_results(p) for p in results or [usual] if results or p.exists()}
    if not found:
        notes.append(f"No results table and no IoU by class: there is no {usual}.")
    metrics = read_metrics(run / "metrics.json")
    if not metrics:
        notes.append(f"No curves of the training: {run / 'metrics.json'} holds none.")
    model, weights = load_model(cfg), checkpoint_hash(cfg.MODEL.WEIGHTS)
    for name, result in found.items():
        if result["weights_sha256"] not in (weights, None):
            notes.append(f"{name} was measured with other weights than the gallery shows.")
        if result["split"] != split:
            notes.append(f"{name} was measured on {result['split']}, not {split}.")

    masks = sum("sem_seg_file_name" in record for record in records)
    measured = model_measurements(cfg, model.sources)
    class_names, class_colors = class_table(split)
    colors = choose_colors(class_colors, (), colorblind)
    page = render_page(
        title=f"{Path(config_name).stem} on {split}",
        facts={
            "config": config_name,
            "split": split,
            "images": f"{len(records)}, {masks} of them with a mask",
            "weights": cfg.MODEL.WEIGHTS,
            "weights sha256": weights,
            "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
            "dalnet": dalnet.__version__,
        },
        notes=[*notes, *note_missing(split, records)],
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
    with complete_or_absent(output) as unfinished:
        # Names of files need not be valid text.
        unfinished.write_bytes(page.encode("utf-8", errors="replace"))


def note_missing(split: str, records: Sequence[Record]) -> list[str]:
    """Return what images of a split lack for the gallery, in sentences."""
    notes = []
    without = sum("sem_seg_file_name" not in record for record in records)
    if without == len(records):
        notes.append(f"No best and worst images and no truth: {split} has no masks.")
    elif without:
        notes.append(
            f"{without} of {len(records)} images have no mask: they are neither best nor worst."
        )
    if not any(record["image_labels"] for record in records):
        notes.append(f"No CAMs and pseudo labels: {split} has no labels of its images.")
    return notes

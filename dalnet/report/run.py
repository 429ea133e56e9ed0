# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML page: its results and curves from disk, its gallery by running the model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn
from tqdm import tqdm

import dalnet
from dalnet.data import build_test_loader
from dalnet.data.datasets.catalog import class_table
from dalnet.engine.checkpointer import checkpoint_hash
from dalnet.engine.config_files import merge_file
from dalnet.engine.trainer import load_model
from dalnet.errors import UsageError
from dalnet.evaluation.confusion import class_ious, confusion_matrix
from dalnet.evaluation.protocol import SOURCES, model_sources
from dalnet.figures.colorblind import colorblind_palette
from dalnet.figures.sheet import SheetRow, collect_rows

from .gallery import Card, make_card
from .image_scores import choose_images, score_images
from .page import Report, save_report
from .run_files import read_metrics, read_results

MAX_IMAGES = 40
_CHOICE = (
    "Best and worst by the mIoU of the head's prediction on the image alone, over the classes that "
    "its truth shows; random ones out of all images, the same for every model."
)


@dataclass(frozen=True)
class ReportJob:
    """What to report.

    Attributes:
        config_file: as given on the command line, for the headline.
        split: name of a registered data set.
        run: folder of the training's ``metrics.json``; the folder of the weights where None.
        results: files written by ``tools/evaluate.py``; where empty, that of the split in the
            run's folder.
        output: the HTML file.
        images: of each group in the gallery, 1 to :data:`MAX_IMAGES`.
        colorblind: whether colours are chosen for colour-blind readers.
    """

    config_file: str
    split: str
    run: Path | None
    results: tuple[Path, ...]
    output: Path
    images: int
    colorblind: bool


def write_run_report(cfg: CfgNode, job: ReportJob) -> None:
    """Write the report on ``MODEL.WEIGHTS``.

    Args:
        cfg: frozen, of the model, with ``TEST.EVAL_CAM``.
        job: what to report.

    Raises:
        UsageError: settings, files or a machine that do not fit.
    """
    if not 1 <= job.images <= MAX_IMAGES:
        raise UsageError(
            f"--images is {job.images}: choose 1 to {MAX_IMAGES}, the page holds all pictures."
        )
    dicts = DatasetCatalog.get(job.split)
    if not dicts:
        raise UsageError(f"{job.split} has no images; name another split.")
    # Before the long part, so that a wrong file is found at once.
    files = _RunFiles(cfg, job)
    model = load_model(cfg)
    weights = checkpoint_hash(cfg.MODEL.WEIGHTS)
    files.check_weights(weights)
    names, colors = class_table(job.split)
    if job.colorblind:
        colors = colorblind_palette(len(names))
    report = Report(
        title=f"{Path(job.config_file).stem} on {job.split}",
        facts=_facts(cfg, job, dicts, weights),
        notes=[*files.notes, *_gallery_notes(job.split, dicts)],
        results=files.results,
        sources=SOURCES,
        metrics=files.metrics,
        training_protocols=files.training_protocols,
        cards=_make_cards(cfg, job, model, dicts, colors),
        gallery_text=_gallery_text(cfg),
        class_names=names,
        colors=colors,
    )
    save_report(job.output, report)


class _RunFiles:
    """What earlier trainings and evaluations have left on disk; ``notes`` says what they have not.

    Raises:
        UsageError: a folder or file that was named and is not there or of no use.
    """

    def __init__(self, cfg: CfgNode, job: ReportJob) -> None:
        self.notes: list[str] = []
        self._split = job.split
        self._run = job.run or Path(cfg.MODEL.WEIGHTS).parent
        if job.run is not None and not job.run.is_dir():
            raise UsageError(f"--run {self._run} is no folder: name the one of the training.")
        self.results = self._read_results(job)
        self.metrics = self._read_metrics()
        self.training_protocols = self._read_protocols(cfg) if self.metrics else {}

    def _read_results(self, job: ReportJob) -> dict[str, dict[str, Any]]:
        usual = self._run / "evaluation" / job.split / "results.json"
        paths = job.results or ((usual,) if usual.exists() else ())
        if not paths:
            self.notes.append(
                f"No results table and no IoU by class: there is no {usual}; tools/evaluate.py "
                "writes it, or name another with --results."
            )
        return {str(path): read_results(path) for path in paths}

    def _read_metrics(self) -> dict[str, dict[int, float]]:
        path = self._run / "metrics.json"
        metrics = read_metrics(path) if path.exists() else {}
        if not metrics:
            what = "has nothing to show" if path.exists() else "does not exist"
            self.notes.append(
                f"No curves of the training: {path} {what}; name the training's folder with --run."
            )
        return metrics

    def _read_protocols(self, cfg: CfgNode) -> dict[str, str]:
        """What each key of mIoU in the metrics is, by the settings that the training had."""
        keys = [key for key in self.metrics if key.endswith("/mIoU")]
        if not keys:
            self.notes.append("No mIoU over the iterations: the training measured none.")
            return {}
        path = self._run / "config.yaml"
        settings = cfg.clone()
        settings.defrost()
        try:
            merge_file(settings, str(path))
        except UsageError:
            self.notes.append(
                "Split, protocol and threshold of the mIoU over the iterations are unknown: "
                f"{path} is missing or cannot be read."
            )
            return {key: key for key in keys}
        texts, splits = _protocol_texts(settings), settings.DATASETS.TEST
        # Of several test splits each has its own keys: SPLIT/sem_seg/mIoU.
        prefixes = [(f"{split}/", split) for split in splits] + [("", ", ".join(splits))]
        return {
            f"{prefix}{source}/mIoU": f"{split}, {text}"
            for prefix, split in prefixes
            for source, text in texts.items()
            if f"{prefix}{source}/mIoU" in keys
        }

    def check_weights(self, sha: str) -> None:
        """Note results that are not those of the model in the gallery."""
        for name, result in self.results.items():
            if result["weights_sha256"] != sha:
                self.notes.append(f"{name} was measured with other weights than the gallery shows.")
            if result["split"] != self._split:
                self.notes.append(f"{name} was measured on {result['split']}, not {self._split}.")


def _protocol_texts(cfg: CfgNode) -> dict[str, str]:
    """Name and protocol of each source by the model's key; ``cfg`` is the model's."""
    return {source.key: f"{source.title}: {source.protocol}" for source in model_sources(cfg)}


def _facts(
    cfg: CfgNode, job: ReportJob, dicts: list[dict[str, Any]], weights: str
) -> dict[str, str]:
    masks = sum("sem_seg_file_name" in record for record in dicts)
    return {
        "config": job.config_file,
        "split": job.split,
        "images": f"{len(dicts)}, {masks} of them with a mask",
        "weights": cfg.MODEL.WEIGHTS,
        "weights sha256": weights,
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "dalnet": dalnet.__version__,
    }


def _gallery_text(cfg: CfgNode) -> str:
    texts = _protocol_texts(cfg)
    shown = (texts[key] for key in ("sem_seg", "cam", "pseudo_label"))
    return f"{_CHOICE} How they were computed: {'; '.join(shown)}."


def _gallery_notes(split: str, dicts: list[dict[str, Any]]) -> list[str]:
    notes = []
    masks = sum("sem_seg_file_name" in record for record in dicts)
    if not masks:
        notes.append(f"No best and worst images and no truth: {split} has no masks.")
    elif masks < len(dicts):
        notes.append(
            f"{len(dicts) - masks} of {len(dicts)} images have no mask: they are neither best nor "
            "worst."
        )
    if not any(record["image_labels"] for record in dicts):
        notes.append(
            f"No CAMs and pseudo labels in the gallery: {split} has no labels of its images."
        )
    return notes


def _make_cards(
    cfg: CfgNode,
    job: ReportJob,
    model: nn.Module,
    dicts: list[dict[str, Any]],
    colors: list[list[int]],
) -> list[Card]:
    """Score all images, keeping only the numbers; then predict the chosen ones once more."""
    scores = _scores(cfg, job.split, model, dicts)
    groups: dict[int, list[str]] = {}
    for group, indices in choose_images(scores, job.images).items():
        for index in indices:
            groups.setdefault(index, []).append(group)
    chosen = [dicts[index] for index in groups]
    cards = []
    bar = tqdm(_items(cfg, job.split, chosen), "drawing", len(chosen), unit="image")
    for index, item in zip(groups, bar, strict=True):
        (row,) = collect_rows(model, [item])
        score = scores[index] if math.isfinite(scores[index]) else None
        ious = _image_ious(row, len(colors))
        cards.append(make_card(row, groups[index], ious, score, colors, job.colorblind))
    return cards


def _scores(cfg: CfgNode, split: str, model: nn.Module, dicts: list[dict[str, Any]]) -> list[float]:
    """mIoU in percent for each image, nan where it has no mask."""
    scores = [math.nan] * len(dicts)
    masked = [index for index, record in enumerate(dicts) if "sem_seg_file_name" in record]
    if masked:
        items = _items(cfg, split, [dicts[index] for index in masked])
        measured = tqdm(score_images(model, items), "scoring", len(masked), unit="image")
        for index, score in zip(masked, measured, strict=True):
            scores[index] = score
    return scores


def _items(cfg: CfgNode, split: str, dicts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (item for batch in build_test_loader(cfg, split, dicts) for item in batch)


def _image_ious(row: SheetRow, num_classes: int) -> dict[int, float]:
    """IoU in percent of the classes that the truth of this image shows."""
    if row.truth is None:
        return {}
    ious = class_ious(confusion_matrix(row.truth, row.prediction, num_classes))
    return {int(value): float(ious[value]) for value in np.flatnonzero(np.isfinite(ious))}

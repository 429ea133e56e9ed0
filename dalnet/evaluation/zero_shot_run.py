# SPDX-License-Identifier: Apache-2.0
"""Measure an open-vocabulary system on a data set under a preset; mIoU as two libraries count it.

mmsegmentation takes the mean over all classes that are shown or predicted: a class that is only
predicted counts 0. Detectron2 leaves it out.
"""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from tabulate import tabulate
from tqdm import tqdm

from dalnet.data import ensure_registered
from dalnet.data.checks import check_masks
from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.datasets.zero_shot import PREFIX, read_zero_shot_truth
from dalnet.data.image_io import read_image
from dalnet.documents import write_json
from dalnet.errors import UsageError
from dalnet.modeling.meta_arch import OpenVocabularySegmentor, WeakSegmentor
from dalnet.numbers import finite_or_none, percent

from .counts import class_ious, confusion_matrix, mean_iou, pixel_accuracy
from .ranks import gather
from .zero_shot import ZeroShotSegmenter, parse_preset

Result = dict[str, Any]

logger = logging.getLogger(__name__)


def evaluate_zero_shot(
    model: WeakSegmentor, dataset: str, preset: str, limit: int | None = None
) -> Result | None:
    """Return what a system scores on a data set; with several ranks each takes a part of it.

    Args:
        model: an open-vocabulary system.
        dataset: its name, as ``voc21``; or any registered one with masks, as ``toy_val``.
        preset: see :func:`dalnet.evaluation.zero_shot.parse_preset`.
        limit: measure on so many images, evenly spread; None for all.

    Returns:
        On the main rank ``dataset``, ``preset`` with ``preset_settings``, ``system``, ``images``,
        ``limit``, ``miou_mmseg``, ``miou_detectron2``, ``pixel_accuracy``, ``iou`` by class and
        ``confusion`` ([truth][prediction]); IoUs in percent, None where nothing is measured. Else
        None.

    Raises:
        UsageError: a system that is not open, an unknown data set or preset, or files that are
            missing or do not fit.
    """
    if not isinstance(model, OpenVocabularySegmentor):
        raise UsageError(
            f"{type(model).__name__} knows the classes it was trained on and no others",
            "model",
            "measure it with dalnet evaluate",
        )
    task, name = _find(dataset)
    settings = parse_preset(preset, task)
    metadata = MetadataCatalog.get(name)
    classes = list(metadata.get("stuff_classes", ()))
    records = _choose_records(dataset, name, classes, limit)
    check_masks(records)
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    with inference_context(model):
        segment = ZeroShotSegmenter(model, settings, classes, task)
        own = records[comm.get_rank() :: comm.get_world_size()]
        for record in tqdm(own, desc=f"{dataset}, {preset}", disable=comm.get_rank() > 0):
            image = read_image(record["file_name"])
            labels = metadata.get("mask_labels")
            size = (image.shape[0], image.shape[1])
            truth = read_zero_shot_truth(record["sem_seg_file_name"], size, labels, len(classes))
            matrix += confusion_matrix(truth, segment(image), len(classes))[:, :-1]
    parts = gather(matrix)
    if not comm.is_main_process():
        return None
    return {
        "dataset": dataset,
        "preset": preset,
        "preset_settings": dataclasses.asdict(settings),
        "system": type(model).__name__,
        "images": len(records),
        "limit": limit,
        **measure(np.sum(parts, axis=0), classes),
    }


def _choose_records(
    dataset: str, name: str, classes: Sequence[str], limit: int | None
) -> list[dict[str, Any]]:
    """Return the images of a data set, or ``limit`` of them; refuse one that cannot be measured on.

    Args:
        dataset: as the user has named it.
        name: as it is registered.
        classes: of it, in the order of labels.
        limit: see :func:`evaluate_zero_shot`.
    """
    records = DatasetCatalog.get(name) if classes else []
    if not records or any("sem_seg_file_name" not in record for record in records):
        what = "not all of its images have masks" if records else "it has no images"
        what = what if classes else "it has no classes of pixels"
        raise UsageError(what, dataset, "name a data set for semantic segmentation")
    if len(classes) > IGNORE_LABEL:
        hint = f"name one of {IGNORE_LABEL} at most, as label maps have 8 bits"
        raise UsageError(f"it has {len(classes)} classes", dataset, hint)
    if limit is None:
        return records
    count = min(max(limit, 1), len(records))
    return [records[number * len(records) // count] for number in range(count)]


def measure(matrix: np.ndarray, classes: Sequence[str]) -> Result:
    """Return the figures of a confusion matrix ``[K, K]``, row = truth, in percent."""
    padded = np.column_stack([matrix, np.zeros(len(matrix), np.int64)])
    ious = class_ious(padded)
    # Of a class that is predicted but never shown, the intersection is empty.
    only_predicted = (matrix.sum(axis=1) == 0) & (matrix.sum(axis=0) > 0)
    counted = np.where(only_predicted, 0.0, ious)
    mmseg = float(np.nanmean(counted)) if np.isfinite(counted).any() else float("nan")
    return {
        "miou_mmseg": finite_or_none(mmseg),
        "miou_detectron2": finite_or_none(mean_iou(padded)),
        "pixel_accuracy": finite_or_none(pixel_accuracy(padded)),
        "iou": dict(zip(classes, map(finite_or_none, counted.tolist()), strict=True)),
        "confusion": matrix.tolist(),
    }


def format_zero_shot(results: Sequence[Result]) -> str:
    """Return results as a table; every line says its preset, for presets cannot be compared."""
    lines = [
        [
            one["system"],
            one["dataset"],
            one["preset"],
            one["images"],
            percent(one["miou_mmseg"]),
            percent(one["miou_detectron2"]),
            percent(one["pixel_accuracy"]),
        ]
        for one in results
    ]
    heads = ["system", "data set", "preset", "images", "mIoU (mmseg)", "mIoU (Detectron2)"]
    return tabulate(lines, [*heads, "pixel acc."], tablefmt="github", disable_numparse=True)


def write_zero_shot(results: Sequence[Result], folder: Path) -> None:
    """Log the table, and write each result as ``zero_shot_<data set>_<preset>.json``.

    One on fewer images, by ``--limit N``, has ``_limit_N`` in its name.
    """
    logger.info("Zero-shot evaluation:\n%s", format_zero_shot(results))
    for one in results:
        limit = "" if one["limit"] is None else f"_limit_{one['limit']}"
        name = re.sub(r"[^\w.]+", "_", f"{PREFIX}{one['dataset']}_{one['preset']}{limit}")
        write_json(folder / f"{name}.json", one)


def _find(dataset: str) -> tuple[str, str]:
    """Return a data set's task, empty for one that has none, and its registered name."""
    name = f"{PREFIX}{dataset.removeprefix(PREFIX)}"
    if name in DatasetCatalog:
        return name.removeprefix(PREFIX), name
    if not ensure_registered(dataset):
        ours = sorted(n.removeprefix(PREFIX) for n in DatasetCatalog if n.startswith(PREFIX))
        hint = f"choose from {', '.join(ours)}, or any other with masks"
        raise UsageError(f"there is no data set {dataset!r}", "dataset", hint)
    return "", dataset

# SPDX-License-Identifier: Apache-2.0
"""Write results as JSON, as CSV and as a table, and read them; IoUs are in percent."""

import csv
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import get_event_storage
from tabulate import tabulate

from dalnet.checkpoint import checkpoint_hash
from dalnet.checkpoint.history import read_last
from dalnet.documents import read_json, write_json
from dalnet.errors import UsageError
from dalnet.io import atomic_write
from dalnet.modeling.meta_arch.segmentor import crf_parameters
from dalnet.numbers import finite_or_none, percent, threshold_text

from .counts import Counts, class_ious, labeled_pixels, mean_iou, pixel_accuracy
from .label_check import describe_differences, label_differences
from .sources import Measurement

Result = dict[str, Any]

logger = logging.getLogger(__name__)

# What readers of a results.json rely on, in it and in each of its measurements.
_KEYS = ("split", "num_images", "num_scored", "weights_sha256", "measurements")
_MEASURED = ("source", "protocol", "scales", "flip", "crf", "threshold", "miou", "iou", "labeled")
_COLUMNS = (*_MEASURED[:7], "best_threshold", "best_miou", "pixel_accuracy", "labeled")


def summarize(
    cfg: CfgNode,
    split: str,
    class_names: Sequence[str],
    counts: Counts,
    weights_sha256: str | None,
    iteration: int | None = None,
) -> Result:
    """Return everything that was measured, ready for JSON.

    Args:
        cfg: of the model.
        split: name of the data set.
        class_names: the K classes of the model, background first.
        counts: over all images of the split.
        weights_sha256: hash of the checkpoint, hexadecimal; None where it is not on disk.
        iteration: how many iterations the model has been trained for, where that is known.

    Returns:
        ``split``, ``num_images``, ``num_scored`` (images with a mask), ``num_labeled`` (those of
        them that CAMs and pseudo labels are measured on, as they have image-level labels),
        ``iteration`` where it is known, ``weights_sha256``, ``system``, ``class_names``,
        ``config``, ``label_differences`` where labels and masks differ (see
        :func:`dalnet.evaluation.label_check.label_differences`) and ``measurements``, which is
        empty if no image has a mask. Training adds ``tags``, see
        :func:`dalnet.evaluation.tags.measure_tags`, where a split has tags and no mask. A
        measurement has ``source``, ``title``, ``protocol``,
        ``scales``, ``flip``, ``crf`` (its parameters, or None),
        ``threshold`` (of CAMs, [low, high] of pseudo labels, or None), ``miou``, ``iou`` by class
        (None for a class without ground truth), ``pixel_accuracy``, ``labeled`` (percent of the
        pixels that are not ignored; None where no pixel has a truth) and ``confusion``
        ([truth][prediction], the last column for ignored); CAMs without CRF also
        ``best_threshold``, ``best_miou`` and ``curve``.
    """
    measured = counts.measurements if counts.num_scored else ()
    differences = label_differences(counts.labels, class_names)
    return {
        "split": split,
        "num_images": len(counts.names),
        "num_scored": counts.num_scored,
        "num_labeled": counts.num_labeled,
        **({} if iteration is None else {"iteration": iteration}),
        "weights_sha256": weights_sha256,
        "system": cfg.MODEL.META_ARCHITECTURE,
        "class_names": list(class_names),
        **({"label_differences": differences} if differences else {}),
        "measurements": [_describe(cfg, one, class_names, counts) for one in measured],
        "config": yaml.safe_load(cfg.dump()),
    }


def _describe(
    cfg: CfgNode, measurement: Measurement, class_names: Sequence[str], counts: Counts
) -> Result:
    matrix, protocol, cam = counts.matrix(measurement), measurement.protocol, cfg.MODEL.CAM
    threshold = {
        "cam": cam.BACKGROUND_THRESHOLD,
        "pseudo_label": [cam.LOW_THRESHOLD, cam.HIGH_THRESHOLD],
    }
    ious = [finite_or_none(value) for value in class_ious(matrix)]
    result = {
        "source": measurement.source,
        "title": measurement.title,
        "protocol": str(protocol),
        "scales": list(measurement.scales),
        "flip": protocol.flip,
        "crf": crf_parameters(cfg) if protocol.crf else None,
        "threshold": threshold.get(measurement.kind),
        "miou": finite_or_none(mean_iou(matrix)),
        "iou": dict(zip(class_names, ious, strict=True)),
        "pixel_accuracy": finite_or_none(pixel_accuracy(matrix)),
        "labeled": finite_or_none(labeled_pixels(matrix)),
        "confusion": matrix.tolist(),
    }
    if measurement.has_curve:
        curve = counts.miou_curve(measurement)
        best = int(np.nanargmax(curve)) if np.isfinite(curve).any() else 0
        thresholds = [round(float(value), 4) for value in counts.thresholds]
        result |= {
            "best_threshold": thresholds[best],
            "best_miou": finite_or_none(curve[best]),
            "curve": {"thresholds": thresholds, "miou": [finite_or_none(value) for value in curve]},
        }
    return result


def evaluated_weights(cfg: CfgNode) -> tuple[str | None, int | None]:
    """Return the SHA-256 of the checkpoint and its iterations, each None where not certain."""
    folder = Path(cfg.OUTPUT_DIR)
    last = read_last(folder)
    newest = str(folder / last) if last else ""
    try:
        # Detectron2 counts from 0, but has counted on when it evaluates after the training.
        iteration = min(get_event_storage().iter + 1, cfg.SOLVER.MAX_ITER)
    except AssertionError:  # not in a training
        named = [path for path in (newest, cfg.MODEL.WEIGHTS) if path]
        is_certain = len({os.path.realpath(path) for path in named}) == 1
        return checkpoint_hash(named[0]) if is_certain else None, None
    is_last = iteration == cfg.SOLVER.MAX_ITER
    saved = "model_final.pth" if is_last else f"model_{iteration - 1:07d}.pth"
    return checkpoint_hash(newest) if Path(newest).name == saved else None, iteration


def format_results(result: Result) -> str:
    """Return the results as a table that says what every number is, for the log."""
    lines = [
        [
            one["title"],
            one["protocol"],
            ", ".join(map(str, one["scales"])),
            threshold_text(one["threshold"]),
            percent(one["miou"]),
            f"{percent(one['best_miou'])} at {one['best_threshold']:g}" if "curve" in one else "-",
            percent(one["pixel_accuracy"]),
            percent(one["labeled"]),
        ]
        for one in result["measurements"]
    ]
    heads = ["source", "protocol", "scales", "threshold", "mIoU", "best mIoU", "pixel acc."]
    table = tabulate(lines, [*heads, "labeled %"], tablefmt="github", disable_numparse=True)
    images = f"{result['split']}, {result['num_images']} images, {result['num_scored']} with a mask"
    if result["num_labeled"]:
        images += f", {result['num_labeled']} of them with the image-level labels that CAMs need"
    return "\n".join((f"{images}; IoU in percent:", table, *left_out(result["measurements"])))


def left_out(measurements: Sequence[Result]) -> list[str]:
    """Return in sentences which classes are in no mean, and which are missing in some only.

    A pixel counts where truth and prediction both name a class. So the mean of a pseudo label lacks
    a class that masks show, where it labels none of its pixels, and that of CAMs a class that only
    images without labels show.

    Args:
        measurements: of one result, see :func:`summarize`.
    """
    counted, shown = [], set()
    for one in measurements:
        counted.append({name for name, iou in one["iou"].items() if iou is not None})
        rows = zip(one["iou"], one.get("confusion", ()), strict=False)
        shown |= counted[-1] | {name for name, row in rows if any(row)}
    lines: dict[tuple[str, ...], list[str]] = {}
    for one, names in zip(measurements, counted, strict=True):
        missing = tuple(name for name in one["iou"] if name in shown - names)
        lines.setdefault(missing, []).append(f"{one.get('title', one['source'])} {one['protocol']}")
    never = [name for name in measurements[0]["iou"] if name not in shown]
    sentences = [f"Left out of every mean, as no mask shows them: {', '.join(never)}"]
    return (sentences if never else []) + [
        f"Left out of the mean of {', '.join(means)}, as none of their pixels counts there: "
        f"{', '.join(missing)}"
        for missing, means in lines.items()
        if missing
    ]


def format_tags(result: Result) -> str:
    """Return as a table how well the classifier finds the tags, for the log."""
    tags = result["tags"]
    lines = [
        [name, one["shown"], one["known"], percent(one["average_precision"])]
        for name, one in tags["classes"].items()
    ]
    table = tabulate(lines, ["class", "shown by", "known of", "AP"], tablefmt="github")
    mean = percent(tags["mean_average_precision"])
    images = f"{result['split']}, {result['num_images']} images without masks"
    return f"{images}; mean average precision of the tags {mean} %:\n{table}"


def write_results(result: Result, folder: Path) -> None:
    """Log the table; write ``results.json`` and, one line a measurement, ``results.csv``."""
    if result["measurements"]:
        logger.info("%s", format_results(result))
    elif "tags" in result:
        logger.info("%s", format_tags(result))
    else:
        logger.warning("%s: nothing was scored.", result["split"])
    if differences := result.get("label_differences"):
        text = describe_differences(differences)
        logger.warning("%s: image-level labels and masks differ: %s.", result["split"], text)
    write_json(folder / "results.json", result)
    shared = {key: result[key] for key in ("split", "num_scored", "weights_sha256")}
    columns = [*shared, *_COLUMNS, *(f"iou:{name}" for name in result["class_names"])]
    with (
        atomic_write(folder / "results.csv") as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        for one in result["measurements"]:
            lists = {k: " ".join(map(str, v)) for k, v in one.items() if isinstance(v, list)}
            ious = {f"iou:{name}": iou for name, iou in one["iou"].items()}
            writer.writerow({**shared, **one, **lists, "crf": one["crf"] is not None, **ious})
    logger.info("Written: %s and results.csv", folder / "results.json")


def read_results(path: Path) -> Result:
    """Read a ``results.json``, see :func:`summarize` for what it holds.

    Raises:
        UsageError: it is missing, unreadable or something else.
    """
    try:
        result = read_json(path, "name a results.json")
        missing = [key for key in _KEYS if key not in result]
        missing += [key for m in result["measurements"] for key in _MEASURED if key not in m]
    except (KeyError, TypeError):
        missing = ["measurements"]
    if missing:
        what = f"it is no results.json of this version, as it has no {missing[0]!r}"
        raise UsageError(what, where=path, hint="name one, or evaluate again")
    return result

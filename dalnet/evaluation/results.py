# SPDX-License-Identifier: Apache-2.0
"""The results of an evaluation as a table, as JSON and as CSV. All IoUs are in percent."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode
from tabulate import tabulate

from dalnet.files import complete_or_absent
from dalnet.modeling.meta_arch.segmentor import crf_parameters
from dalnet.numbers import finite_or_none, percent, threshold_text

from .confusion import class_ious, labelled_share, mean_iou
from .protocol import SOURCES, Row
from .tally import Tally
from .threshold_curve import miou_curve

Result = dict[str, Any]


def summarise(
    cfg: CfgNode, split: str, class_names: Sequence[str], tally: Tally, weights_sha256: str
) -> Result:
    """Everything that was measured, ready for JSON.

    Args:
        cfg: of the model.
        split: name of the data set.
        class_names: K names, background first.
        tally: over all images of the split.
        weights_sha256: hash of the checkpoint, hexadecimal.

    Returns:
        ``split``, ``num_images``, ``num_scored`` (images with a mask), ``weights_sha256``,
        ``config`` and ``rows``. A row has ``source``, ``protocol``, ``scales``, ``flip``, ``crf``
        (its parameters, or None), ``threshold`` (of a CAM, [low, high] of a pseudo label, or
        None), ``miou``, ``iou`` by class (None for a class without ground truth), ``labelled``
        (percent of the pixels that are not ignored) and ``confusion`` ([truth][prediction], the
        last column for ignored); a CAM without CRF also ``best_threshold``, ``best_miou`` and
        ``curve``. ``rows`` is empty if no image has a mask.
    """
    return {
        "split": split,
        "num_images": len(tally.done),
        "num_scored": tally.scored,
        "weights_sha256": weights_sha256,
        "config": yaml.safe_load(cfg.dump()),
        "rows": [_summarise_row(cfg, row, class_names, tally) for row in tally.rows]
        if tally.scored
        else [],
    }


def _summarise_row(cfg: CfgNode, row: Row, class_names: Sequence[str], tally: Tally) -> Result:
    matrix = tally.matrices[str(row)]
    ious = [finite_or_none(value) for value in class_ious(matrix)]
    result = {
        "source": row.source,
        "protocol": str(row.protocol),
        "scales": list(row.scales),
        "flip": row.protocol.flip,
        "crf": {**crf_parameters(cfg)} if row.protocol.crf else None,
        "threshold": _threshold(cfg, row),
        "miou": finite_or_none(mean_iou(matrix)),
        "iou": dict(zip(class_names, ious, strict=True)),
        "labelled": labelled_share(matrix),
        "confusion": matrix.tolist(),
    }
    if row.has_curve:
        curve = miou_curve(tally.histograms[str(row)])
        best = int(np.nanargmax(curve)) if np.isfinite(curve).any() else 0
        thresholds = [round(float(value), 4) for value in tally.thresholds]
        result |= {
            "best_threshold": thresholds[best],
            "best_miou": finite_or_none(curve[best]),
            "curve": {"thresholds": thresholds, "miou": [finite_or_none(value) for value in curve]},
        }
    return result


def _threshold(cfg: CfgNode, row: Row) -> float | list[float] | None:
    settings = cfg.MODEL.CAM
    if row.is_cam:
        return settings.BACKGROUND_THRESHOLD
    return [settings.LOW_THRESHOLD, settings.HIGH_THRESHOLD] if row.source == "pseudo" else None


def format_table(result: Result) -> str:
    """The rows as a table that says what every number is."""
    lines = [
        [
            SOURCES[row["source"]],
            row["protocol"],
            ", ".join(map(str, row["scales"])),
            threshold_text(row["threshold"]),
            percent(row["miou"]),
            f"{percent(row['best_miou'])} at {row['best_threshold']:g}"
            if "best_miou" in row
            else "-",
            percent(row["labelled"]),
        ]
        for row in result["rows"]
    ]
    headers = ["source", "protocol", "scales", "threshold", "mIoU", "best mIoU", "labelled %"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def absent_classes(result: Result) -> list[str]:
    """Names of the classes that the ground truth never shows, so that no mean counts them."""
    return [name for name, value in result["rows"][0]["iou"].items() if value is None]


def write_results(result: Result, folder: Path) -> list[Path]:
    """Write ``results.json`` and, one line a row, ``results.csv``; returns their paths."""
    paths = [folder / "results.json", folder / "results.csv"]
    with complete_or_absent(paths[0]) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with (
        complete_or_absent(paths[1]) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        shared = ["split", "num_scored", "weights_sha256"]
        own = ["source", "protocol", "scales", "flip", "crf", "threshold", "miou"]
        extra = ["best_threshold", "best_miou", "labelled"]
        classes = list(result["rows"][0]["iou"]) if result["rows"] else []
        writer.writerow([*shared, *own, *extra, *(f"iou:{name}" for name in classes)])
        for row in result["rows"]:
            values = {**row, "crf": row["crf"] is not None}
            values["scales"] = " ".join(map(str, row["scales"]))
            if isinstance(row["threshold"], list):
                values["threshold"] = " ".join(map(str, row["threshold"]))
            cells = [result[key] for key in shared]
            cells += [values.get(key) for key in (*own, *extra)]
            writer.writerow([*cells, *row["iou"].values()])
    return paths

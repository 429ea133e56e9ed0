# SPDX-License-Identifier: Apache-2.0
"""Compare image-level labels with the masks of the same images."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

_COLUMNS = ("labeled", "labeled_without_pixel", "in_mask", "in_mask_unlabeled")


def compare_labels(
    image_labels: Tensor, known_labels: Tensor | None, truth: np.ndarray
) -> np.ndarray:
    """Compare the labels of an image with its mask.

    Args:
        image_labels: ``[C]``, 1 where the image shows the class.
        known_labels: boolean ``[C]``, whether that is known; None for all.
        truth: integers ``[H, W]``, 0..C for classes with background.

    Returns:
        int64 ``[C, 4]`` of 0 and 1: whether the class is labeled; and has no pixel; whether the
        mask has a pixel of it, where its label is known; and it is not labeled.
    """
    labeled = image_labels.cpu().numpy() > 0
    in_mask = np.isin(np.arange(1, len(labeled) + 1), truth)
    known = np.ones_like(labeled) if known_labels is None else known_labels.cpu().numpy()
    columns = (labeled, labeled & ~in_mask, in_mask & known, in_mask & known & ~labeled)
    return np.stack(columns, axis=1).astype(np.int64)


def label_differences(table: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the sums of :func:`compare_labels` by name, of classes where labels and masks differ.

    Args:
        table: int64 ``[C, 4]``, summed over images.
        class_names: C + 1 names, background first.
    """
    rows = zip(class_names[1:], table.tolist(), strict=True)
    return {name: dict(zip(_COLUMNS, row, strict=True)) for name, row in rows if row[1] or row[3]}


def describe_differences(differences: Mapping[str, Mapping[str, int]]) -> str:
    """Return in sentences where labels and masks differ; empty where they do not."""
    kinds = (
        ("labels without a pixel in their mask", "labeled_without_pixel", "labeled"),
        ("classes in a mask without a label", "in_mask_unlabeled", "in_mask"),
    )
    parts = []
    for title, part, whole in kinds:
        found = {name: row for name, row in differences.items() if row[part]}
        if found:
            counts = (f"{name} {row[part]} of {row[whole]}" for name, row in found.items())
            total = sum(row[part] for row in found.values())
            parts.append(f"{total} {title} ({', '.join(counts)} images)")
    never = [name for name, row in differences.items() if row["labeled"] and not row["in_mask"]]
    if never:
        parts.append(
            f"no mask shows {', '.join(never)} where its label is known: classes are numbered from "
            "1 in masks, and 255 is ignored"
        )
    return "; ".join(parts)

# SPDX-License-Identifier: Apache-2.0
"""What the alignment works with, against the true masks: M_obj, and cosines with the texts."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

# What is measured: its line in the table, and how the table writes it.
_LINES = {
    "object_share": ("pixels on objects, of all", "{:.1%}"),
    "mask_precision": ("pixels on objects, of those in M_obj", "{:.1%}"),
    "mask_recall": ("pixels in M_obj, of those on objects", "{:.1%}"),
    "class_text_on_object": ("cosine with a class's text: patches of its objects", "{:.2f}"),
    "class_text_on_others": (
        "cosine with a class's text: patches of the image's other classes",
        "{:.2f}",
    ),
    "class_text_on_ground": ("cosine with a class's text: background patches", "{:.2f}"),
    "background_text_on_object": (
        "cosine with the background's text: patches of objects",
        "{:.2f}",
    ),
    "background_text_on_ground": (
        "cosine with the background's text: background patches",
        "{:.2f}",
    ),
    "class_text_order": (
        "a patch of the class nearer to its text than one without, of all pairs",
        "{:.1%}",
    ),
}


class AlignmentQuality:
    """Running means over images.

    Means are over patches, each weighted by the share of its pixels that have the label in
    question; the order of pairs is the mean over images and their classes. Ignored pixels count
    for nothing.
    """

    def __init__(self, num_classes: int) -> None:
        """Take the number K of labels, background included."""
        self.num_classes = num_classes
        self.images = 0
        # By name, a sum and its weight.
        self._sums = {name: torch.zeros(2, dtype=torch.float64) for name in _LINES}

    def count(
        self, truth: Tensor, mask: Tensor, cosines: Mapping[int, Tensor] | None = None
    ) -> None:
        """Count one image.

        Args:
            truth: [H, W] integers, labels or an ignore value of K or more.
            mask: M_obj, [h, w] of 0 and 1, on the token grid.
            cosines: by label of what the image shows, and 0 for the background, [h, w] in -1..1;
                None for a model without alignment.
        """
        self.images += 1
        shares = patch_shares(truth, self.num_classes, tuple(mask.shape))
        mask, objects, labelled = mask.cpu(), shares[1:].sum(dim=0), shares.sum(dim=0)
        self._add("object_share", objects.sum(), labelled.sum())
        self._add("mask_precision", (mask * objects).sum(), (mask * labelled).sum())
        self._add("mask_recall", (mask * objects).sum(), objects.sum())
        if cosines is not None:
            self._count_cosines(shares, {label: one.cpu() for label, one in cosines.items()})

    def _count_cosines(self, shares: Tensor, cosines: Mapping[int, Tensor]) -> None:
        objects = shares[1:].sum(dim=0)
        self._add_cosine("background_text_on_object", cosines[0], objects)
        self._add_cosine("background_text_on_ground", cosines[0], shares[0])
        for label in cosines.keys() - {0}:
            own, others = shares[label], objects - shares[label]
            self._add_cosine("class_text_on_object", cosines[label], own)
            self._add_cosine("class_text_on_others", cosines[label], others)
            self._add_cosine("class_text_on_ground", cosines[label], shares[0])
            order = pair_order(cosines[label], own >= 0.5, others + shares[0] > 0.5)
            if order is not None:
                self._add("class_text_order", order, 1.0)

    def _add_cosine(self, name: str, cosine: Tensor, weight: Tensor) -> None:
        self._add(name, (cosine * weight).sum(), weight.sum())

    def _add(self, name: str, value: Tensor | float, weight: Tensor | float) -> None:
        self._sums[name] += torch.tensor([float(value), float(weight)], dtype=torch.float64)

    def result(self) -> dict[str, float | None]:
        """By name, the means (cosines in -1..1, all else in 0..1); None where nothing counts."""
        sums = {name: pair.tolist() for name, pair in self._sums.items()}
        return {name: total / weight if weight else None for name, (total, weight) in sums.items()}


def patch_shares(truth: Tensor, num_classes: int, grid: tuple[int, int]) -> Tensor:
    """Share of each label in the pixels of each patch.

    Args:
        truth: [H, W] integers; ``num_classes`` and more stand for ignored pixels.
        num_classes: K.
        grid: (h, w); where it does not divide (H, W), neighbours share their border pixels.

    Returns:
        [K, h, w] in 0..1; its sum over K falls short of 1 by the ignored pixels.
    """
    one_hot = F.one_hot(truth.long().clamp(max=num_classes), num_classes + 1)
    return F.adaptive_avg_pool2d(one_hot[..., :num_classes].permute(2, 0, 1).float(), grid)


def pair_order(values: Tensor, positive: Tensor, negative: Tensor) -> float | None:
    """How often a positive value exceeds a negative one (the area under the ROC curve).

    Args:
        values: [h, w].
        positive, negative: boolean [h, w].

    Returns:
        Share of all pairs, in 0..1, ties counted half; None without a pair.
    """
    if not (positive.any() and negative.any()):
        return None
    difference = values[positive][:, None] - values[negative][None]
    return ((difference > 0).double() + 0.5 * (difference == 0)).mean().item()


def format_quality(result: Mapping[str, float | None]) -> str:
    """The result as a Markdown table, without the lines of which nothing was counted."""
    rows = [
        [title, form.format(result[name])]
        for name, (title, form) in _LINES.items()
        if result[name] is not None
    ]
    return tabulate(rows, ["what", "value"], tablefmt="github", disable_numparse=True)

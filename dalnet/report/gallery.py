# SPDX-License-Identifier: Apache-2.0
"""Makes a report's gallery: images chosen by the scores of their predictions, as small images."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.evaluation.counts import class_ious, confusion_matrix
from dalnet.figures.images import ImageResult, Record, predict_images
from dalnet.figures.overlay import Color, find_labels
from dalnet.figures.sheet import draw_panels
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.pages import jpeg_base64

_SEED = 0  # the same random images for every model
_WIDTH = 220  # pixels of a panel; larger ones are shrunk


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: of the image.
        groups: what it was chosen as.
        image_classes: classes 0..C-1 of its image-level labels.
        ious: see :func:`score_image`.
        labels: labels 0..C (background 0) and 255 that its label maps show.
        panels: JPEG in base64 by title.
    """

    name: str
    groups: Sequence[str]
    image_classes: Sequence[int]
    ious: Mapping[int, float]
    labels: Sequence[int]
    panels: Mapping[str, str]

    @property
    def classes(self) -> list[int]:
        """Labels 1..C by which the card is found: image-level or in any of its label maps."""
        found = {*self.labels, *(c + 1 for c in self.image_classes)}
        return sorted(found - {0, IGNORE_LABEL})


def make_gallery(
    cfg: CfgNode,
    model: WeakSegmentor,
    split: str,
    records: list[Record],
    count: int,
    colors: Sequence[Color],
    colorblind: bool = False,
) -> list[Card]:
    """Score all images, keeping only the numbers; then predict the chosen ones once more.

    Args:
        cfg, model, split, records: as for :func:`dalnet.figures.images.predict_images`.
        count: images of each group.
        colors: C + 1 RGB triples in 0..255, background first.
        colorblind: whether CAMs are drawn from blue to yellow, not over green to red.
    """
    scores = [math.nan] * len(records)
    masked = [i for i, record in enumerate(records) if "sem_seg_file_name" in record]
    if masked:
        results = predict_images(cfg, model, split, [records[i] for i in masked], needs_cams=False)
        for i, result in zip(masked, tqdm(results, "scoring", len(masked)), strict=True):
            ious = score_image(result, len(colors))
            scores[i] = float(np.mean(list(ious.values()) or math.nan))
    groups: dict[int, list[str]] = {}
    for group, indices in choose_groups(scores, count).items():
        for i in indices:
            groups.setdefault(i, []).append(group)
    results = predict_images(cfg, model, split, [records[i] for i in groups])
    chosen = zip(groups.values(), tqdm(results, "drawing", len(groups)), strict=True)
    return [make_card(result, names, colors, colorblind) for names, result in chosen]


def score_image(result: ImageResult, num_classes: int) -> dict[int, float]:
    """Return the prediction's IoU in percent on this image alone, by label that its truth shows.

    Args:
        result: of an image; without truth or prediction it has no scores.
        num_classes: C + 1, with background.
    """
    maps = result.label_maps
    if not {"truth", "prediction"} <= maps.keys():
        return {}
    ious = class_ious(confusion_matrix(maps["truth"], maps["prediction"], num_classes))
    return {int(label): float(ious[label]) for label in np.flatnonzero(np.isfinite(ious))}


def choose_groups(scores: Sequence[float], count: int) -> dict[str, list[int]]:
    """Choose images by their scores, and some by chance.

    Args:
        scores: one per image; nan for an image without a score.
        count: images per group; fewer where there are not as many.

    Returns:
        Indices by group: ``"best"`` from the best down, ``"worst"`` from the worst up, which have
        no image in common, and ``"random"``, out of all images. Empty groups are left out.
    """
    scored = (i for i, score in enumerate(scores) if math.isfinite(score))
    ranked = sorted(scored, key=lambda i: -scores[i])
    half = (len(ranked) + 1) // 2
    groups = {
        "best": ranked[:half][:count],
        "worst": ranked[half:][::-1][:count],
        "random": random.Random(_SEED).sample(range(len(scores)), min(count, len(scores))),
    }
    return {name: indices for name, indices in groups.items() if indices}


def make_card(
    result: ImageResult, groups: Sequence[str], colors: Sequence[Color], colorblind: bool = False
) -> Card:
    """Draw an image and keep only its small panels; arguments as for ``make_gallery``."""
    panels = {}
    for title, panel in draw_panels(result, colors, colorblind).items():
        image = Image.fromarray(panel)
        image.thumbnail((_WIDTH, 10 * _WIDTH))
        panels[title] = jpeg_base64(image, quality=82)
    return Card(
        name=result.name,
        groups=groups,
        image_classes=result.image_classes,
        ious=score_image(result, len(colors)),
        labels=find_labels(result.label_maps.values()),
        panels=panels,
    )

# SPDX-License-Identifier: Apache-2.0
"""The head's mIoU image by image, and images chosen by it."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.evaluation import inference_context
from torch import nn

from dalnet.data.image_io import read_mask

from .confusion import confusion_matrix, mean_iou

_SEED = 0  # the same random images for every model


def score_images(model: nn.Module, inputs: Iterable[dict[str, Any]]) -> Iterator[float]:
    """Run the segmentation head and compare each prediction with its truth.

    Args:
        model: in evaluation returns dicts with ``sem_seg`` [C + 1, H, W]. Its mode is restored
            at the end.
        inputs: what ``DALNetMapper`` makes at test time, all with ``sem_seg_file_name``.

    Yields:
        For each image the mIoU in percent over the classes that its own truth shows, background
        included; nan where the truth is ignored throughout.

    Raises:
        UsageError: a mask is unreadable or does not fit.
    """
    with inference_context(model), torch.no_grad():
        for item in inputs:
            # Without labels the model computes no CAMs, which nobody looks at here.
            unlabelled = {key: value for key, value in item.items() if key != "image_labels"}
            scores = model([unlabelled])[0]["sem_seg"]
            truth = read_mask(item["sem_seg_file_name"], scores.shape[-2:], len(scores))
            prediction = scores.argmax(dim=0).cpu().numpy()
            yield mean_iou(confusion_matrix(truth, prediction, len(scores)))


def choose_images(scores: Sequence[float], count: int) -> dict[str, list[int]]:
    """Choose images by their scores, and some by chance.

    Args:
        scores: one per image; nan for an image without a score.
        count: images per group; fewer where there are not as many.

    Returns:
        Indices by group: ``"best"`` from the best down, ``"worst"`` from the worst up, which have
        no image in common, and ``"random"``, out of all images. Empty groups are left out.
    """
    scored = [index for index, score in enumerate(scores) if math.isfinite(score)]
    ranked = sorted(scored, key=lambda index: -scores[index])
    half = (len(ranked) + 1) // 2
    groups = {
        "best": ranked[: min(count, half)],
        "worst": ranked[half:][::-1][:count],
        "random": random.Random(_SEED).sample(range(len(scores)), min(count, len(scores))),
    }
    return {name: indices for name, indices in groups.items() if indices}

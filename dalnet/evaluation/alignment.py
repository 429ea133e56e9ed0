# SPDX-License-Identifier: Apache-2.0
"""Compare M_obj and cosines with texts, which alignment losses work with, with the true masks."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from scipy.stats import rankdata
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from dalnet.checkpoint import load_model
from dalnet.data import build_test_loader
from dalnet.data.classes import read_truth
from dalnet.documents import write_json
from dalnet.errors import UsageError
from dalnet.modeling.cam import object_mask
from dalnet.modeling.image_classes import classes_of_labels
from dalnet.modeling.losses import text_similarity
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.modeling.multi_scale import Features
from dalnet.modeling.resize import resize

from .ranks import gather

RESULT_FILE = "alignment.json"
# What is measured, and its line in the table. Names with "text_on" are cosines, others fractions.
_TITLES = {
    "object_fraction": "pixels on objects, of all",
    "mask_precision": "pixels on objects, of those in M_obj",
    "mask_recall": "pixels in M_obj, of those on objects",
    "class_text_on_object": "cosine with a class's text: patches of its objects",
    "class_text_on_others": "cosine with a class's text: patches of the image's other classes",
    "class_text_on_ground": "cosine with a class's text: background patches",
    "background_text_on_object": "cosine with the background's text: patches of objects",
    "background_text_on_ground": "cosine with the background's text: background patches",
    "class_text_order": "a patch of the class nearer to its text than one without, of all pairs",
}

logger = logging.getLogger(__name__)


def evaluate_alignment(cfg: CfgNode, split: str, output: Path) -> dict[str, Any] | None:
    """Compare M_obj and the similarities with the true masks; log a table, write a file.

    Each image is taken whole, at the size of evaluation and scale 1.0; in training both come from
    crops. Of a model without a space that patches and texts share there is M_obj only. With several
    ranks each takes a part of the images.

    Args:
        cfg: frozen, of the model.
        split: name of a registered data set.
        output: folder of ``alignment.json``.

    Returns:
        On the main rank what the file holds: ``split``, ``weights``, ``num_images`` and
        ``quality``, see :meth:`AlignmentQuality.compute`; else None.

    Raises:
        UsageError: a system without M_obj, no image with mask and labels, or unusable files.
    """
    records = DatasetCatalog.get(split)
    records = [r for r in records if r["image_labels"] and "sem_seg_file_name" in r]
    if not records:
        hint = "name another split"
        raise UsageError("no image has a mask and image-level labels", where=split, hint=hint)
    model = load_model(cfg)
    beta = getattr(model, "object_mask_threshold", None)
    if beta is None:
        raise UsageError(
            "the system has no object-aware mask and aligns nothing with texts",
            where=cfg.MODEL.META_ARCHITECTURE,
            hint="name a checkpoint of DALNet",
        )
    quality = AlignmentQuality(len(model.class_names))
    with inference_context(model), torch.no_grad():
        for (record,) in tqdm(build_test_loader(cfg, split, records), desc=split, unit="image"):
            _measure(quality, model, record, beta)
    parts = gather(quality)
    if not parts:
        return None
    quality = AlignmentQuality(len(model.class_names))
    for part in parts:
        quality.merge(part)
    result = {
        "split": split,
        "weights": cfg.MODEL.WEIGHTS,
        "num_images": quality.num_images,
        "quality": quality.compute(),
    }
    table, path = format_quality(result["quality"]), output / RESULT_FILE
    write_json(path, result)
    logger.info("%s, %d images:\n%s\nWritten: %s", split, quality.num_images, table, path)
    return result


def _measure(
    quality: "AlignmentQuality", model: WeakSegmentor, record: dict[str, Any], beta: float
) -> None:
    labels = record["image_labels"]
    truth = torch.from_numpy(read_truth(record, quality.num_classes))
    features = model.infer_record(record).features()
    raw = model.maps("cam_inter", features)
    mask = object_mask(raw, labels[None].to(model.device), beta)[0]
    cosines = None
    if getattr(model, "projections", None) is not None:
        cosines = patch_similarities(model, features, classes_of_labels(labels))
    quality.update(truth, mask, cosines)


class AlignmentQuality:
    """Running means over images.

    Means are over patches, each weighted by the fraction of its pixels that have the label in
    question; the order of pairs is the mean over images and their classes. Ignored pixels count
    for nothing.
    """

    def __init__(self, num_classes: int) -> None:
        """Take the number K of labels, background included."""
        self.num_classes = num_classes
        self.num_images = 0
        # By name, a sum and its weight.
        self._sums = {name: torch.zeros(2, dtype=torch.float64) for name in _TITLES}

    def update(
        self, truth: Tensor, mask: Tensor, cosines: Mapping[int, Tensor] | None = None
    ) -> None:
        """Count one image.

        Args:
            truth: ``[H, W]`` integers, labels or an ignore value of K or more.
            mask: M_obj, ``[h, w]`` of 0 and 1, on the token grid.
            cosines: by label of what the image shows, and 0 for the background, ``[h, w]`` in
                -1..1; None for a model without alignment.
        """
        self.num_images += 1
        fractions = patch_fractions(truth, self.num_classes, (mask.shape[0], mask.shape[1]))
        mask, objects, known = mask.cpu(), fractions[1:].sum(dim=0), fractions.sum(dim=0)
        self._add("object_fraction", objects, known)
        self._add("mask_precision", mask * objects, mask * known)
        self._add("mask_recall", mask * objects, objects)
        for label, cosine in (cosines or {}).items():
            self._add_cosines(label, cosine.cpu(), fractions)

    def _add_cosines(self, label: int, cosine: Tensor, fractions: Tensor) -> None:
        ground, own, objects = fractions[0], fractions[label], fractions[1:].sum(dim=0)
        if label == 0:
            self._add("background_text_on_object", cosine * objects, objects)
            self._add("background_text_on_ground", cosine * ground, ground)
            return
        others = objects - own
        self._add("class_text_on_object", cosine * own, own)
        self._add("class_text_on_others", cosine * others, others)
        self._add("class_text_on_ground", cosine * ground, ground)
        if (order := pair_order(cosine, own >= 0.5, others + ground > 0.5)) is not None:
            self._sums["class_text_order"] += torch.tensor([order, 1.0])

    def _add(self, name: str, values: Tensor, weights: Tensor) -> None:
        self._sums[name] += torch.stack([values.sum().double(), weights.sum().double()])

    def merge(self, other: "AlignmentQuality") -> None:
        """Add the sums over other images."""
        self.num_images += other.num_images
        for name, pair in other._sums.items():
            self._sums[name] += pair

    def compute(self) -> dict[str, float | None]:
        """Return the means by name, cosines in -1..1, others in 0..1; None where nothing counts."""
        sums = {name: pair.tolist() for name, pair in self._sums.items()}
        return {name: total / weight if weight else None for name, (total, weight) in sums.items()}


@torch.no_grad()
def patch_similarities(
    model: WeakSegmentor, features: Features, image_classes: Sequence[int]
) -> dict[int, Tensor]:
    """Return the cosines of the last block's patch tokens with texts, in the common space (Fig. 6).

    Args:
        model: in evaluation mode. A system that aligns has ``projections`` into the common space,
            or None, and embeddings ``text_fg`` ``[C, d_t]`` and ``text_bg`` ``[1, d_t]``.
        features: of one image, with ``patch_tokens`` ``[1, D, h, w]``.
        image_classes: the classes, 0..C-1, that the image shows.

    Returns:
        By label ``[h, w]`` in -1..1: first c + 1 for each class c, then 0, the background.

    Raises:
        UsageError: the model has no common space.
    """
    projections = getattr(model, "projections", None)
    if projections is None:
        raise UsageError(
            "the model has no space that patches and texts share, as it was trained without "
            "alignment losses",
            hint="name one that was trained with them",
        )
    embeddings = [model.get_buffer("text_fg")[list(image_classes)], model.get_buffer("text_bg")]
    texts = projections.text(torch.cat(embeddings))  # [P + 1, d]
    tokens = features["patch_tokens"]  # [1, D, h, w]
    patches = projections.visual(tokens.flatten(2).transpose(1, 2))  # [1, h w, d]
    cosines = text_similarity(patches, texts).unflatten(2, tokens.shape[-2:])[0]
    return dict(zip([*(c + 1 for c in image_classes), 0], cosines, strict=True))


@torch.no_grad()
def similarity_maps(model: WeakSegmentor, record: dict[str, Any]) -> dict[int, np.ndarray]:
    """Return the cosines of :func:`patch_similarities`, float32 ``[H, W]``, at the image's size.

    Args:
        model: in evaluation mode, see :func:`patch_similarities`.
        record: what the test mapper made of one image with image-level labels.

    Raises:
        UsageError: as :func:`patch_similarities`.
    """
    image = model.infer_record(record)
    image_classes = classes_of_labels(record["image_labels"])
    cosines = patch_similarities(model, image.features(), image_classes)
    maps = resize(torch.stack(list(cosines.values()))[None], image.size)[0]
    return dict(zip(cosines, maps.cpu().numpy(), strict=True))


def patch_fractions(truth: Tensor, num_classes: int, grid: tuple[int, int]) -> Tensor:
    """Return the fraction of each label in the pixels of each patch.

    Args:
        truth: ``[H, W]`` integers; ``num_classes`` and more stand for ignored pixels.
        num_classes: K.
        grid: (h, w); where it does not divide (H, W), neighbors share their border pixels.

    Returns:
        ``[K, h, w]`` in 0..1; its sum over K falls short of 1 by the ignored pixels.
    """
    one_hot = F.one_hot(truth.long().clamp(max=num_classes), num_classes + 1)
    return F.adaptive_avg_pool2d(one_hot[..., :num_classes].permute(2, 0, 1).float(), grid)


def pair_order(values: Tensor, positive: Tensor, negative: Tensor) -> float | None:
    """Return how often a positive value exceeds a negative one (the area under the ROC curve).

    Args:
        values: ``[h, w]``.
        positive, negative: boolean ``[h, w]``.

    Returns:
        Fraction of all pairs, in 0..1, ties counted half; None without a pair.
    """
    above, below = values[positive].numpy(), values[negative].numpy()
    if not above.size or not below.size:
        return None
    # By the sum of ranks (Mann and Whitney), where equal values share their mean rank.
    ranks = rankdata(np.concatenate([above, below]))[: above.size]
    return float(ranks.mean() - (above.size + 1) / 2) / below.size


def format_quality(result: Mapping[str, float | None]) -> str:
    """Return the result as a Markdown table, without the lines of which nothing was counted."""
    rows = [
        [title, f"{result[name]:.2f}" if "text_on" in name else f"{result[name]:.1%}"]
        for name, title in _TITLES.items()
        if result[name] is not None
    ]
    return tabulate(rows, ["what", "value"], tablefmt="github", disable_numparse=True)

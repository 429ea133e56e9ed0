# SPDX-License-Identifier: Apache-2.0
"""What every figure starts from: the images of a split and what a model says about them."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context

from dalnet.data import build_test_loader
from dalnet.data.image_io import read_image, read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.scorer import label_map_of
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.meta_arch import WeakSegmentor

Record = dict[str, Any]


@dataclass(frozen=True)
class ImageResult:
    """One image with its mask and predictions, all at the size of the image as it lies on disk.

    Attributes:
        name: file name without suffix.
        image: uint8 ``[H, W, 3]``, RGB.
        image_classes: classes 0..C-1 of its image-level labels.
        truth: label map ``[H, W]``, 255 for ignored; None without a mask.
        cams: by class of ``image_classes``, float32 ``[H, W]`` in 0..1; may be empty.
        pseudo_label: label map ``[H, W]``, 255 for ignored, or None.
        prediction: label map ``[H, W]`` of the segmentation head; of a system without one, of the
            CAMs; None where that has no image-level labels.
    """

    name: str
    image: np.ndarray
    image_classes: tuple[int, ...] = ()
    truth: np.ndarray | None = None
    cams: Mapping[int, np.ndarray] = field(default_factory=dict)
    pseudo_label: np.ndarray | None = None
    prediction: np.ndarray | None = None

    @property
    def label_maps(self) -> dict[str, np.ndarray]:
        """Truth, pseudo label and prediction by title, those that there are."""
        maps = (self.truth, self.pseudo_label, self.prediction)
        titled = zip(("truth", "pseudo label", "prediction"), maps, strict=True)
        return {title: label_map for title, label_map in titled if label_map is not None}


def choose_images(
    split: str,
    names: Sequence[str],
    count: int,
    seed: int = 0,
    *,
    class_name: str | None = None,
    needs_labels: bool = True,
) -> list[Record]:
    """Return the named images of a split, or ``count`` random ones sorted by name.

    Args:
        split: a registered data set.
        names: file names without suffix; where there are none, images are drawn at random.
        count, seed: how many, and of which draw.
        class_name: what every image has to be labeled.
        needs_labels: whether every image has to have image-level labels.

    Raises:
        UsageError: no such class, an unknown or unsuitable image, or fewer than wanted.
    """
    _, *classes = MetadataCatalog.get(split).stuff_classes
    if class_name not in (None, *classes):
        raise UsageError(
            f"{split} has no class {class_name!r}; its classes are {', '.join(classes)}."
        )

    def is_suitable(record: Record) -> bool:
        labels = record["image_labels"]
        if class_name is not None:
            return classes.index(class_name) in labels
        return bool(labels) or not needs_labels

    records = {Path(record["file_name"]).stem: record for record in DatasetCatalog.get(split)}
    for name in names:
        if name not in records:
            example = min(records, default="none: the split is empty")
            raise UsageError(
                f"{split} has no image {name!r}: name files without suffix, as {example}."
            )
        if not is_suitable(records[name]):
            shortcoming = f"is not labeled {class_name!r}" if class_name else "has no labels"
            raise UsageError(f"The image {name} {shortcoming}; name another.")
    if names:
        return [records[name] for name in dict.fromkeys(names)]
    suitable = sorted(name for name, record in records.items() if is_suitable(record))
    if not 0 < count <= len(suitable):
        raise UsageError(
            f"{count} images cannot be drawn: {split} has {len(records)}, {len(suitable)} of them "
            "fit for this figure; choose from 1 to that."
        )
    return [records[name] for name in sorted(random.Random(seed).sample(suitable, count))]


def predict_images(
    cfg: CfgNode,
    model: WeakSegmentor,
    split: str,
    records: list[Record],
    needs_cams: bool = True,
) -> Iterator[ImageResult]:
    """Run a model in evaluation mode, one image at a time; its mode is restored at the end.

    Args:
        cfg: of the model, with ``TEST.EVAL_CAM`` if CAMs are wanted.
        model: labels by the source ``sem_seg`` or, if it has none, by ``cam``.
        split: a registered data set.
        records: some of its images.
        needs_cams: whether CAMs and pseudo labels are wanted. If not, a model with ``sem_seg``
            gets no image-level labels and so spends no time on them.

    Raises:
        UsageError: an image or mask is missing, unreadable or of the wrong size.
    """
    needs_labels = needs_cams or "sem_seg" not in model.sources
    with inference_context(model), torch.no_grad():
        for (item,) in build_test_loader(cfg, split, records):
            if not needs_labels:
                item.pop("image_labels", None)
            yield _predict_image(model, item)


def _predict_image(model: WeakSegmentor, item: Record) -> ImageResult:
    image, truth = read_image(item["file_name"]), None
    if "sem_seg_file_name" in item:
        truth = read_mask(item["sem_seg_file_name"], image.shape[:2], len(model.class_names))
    labels = item.get("image_labels")
    image_classes = () if labels is None else tuple(labels.nonzero().flatten().tolist())
    (output,) = model([item])
    all_cams, scores = output.get("cam"), output.get("sem_seg")
    cams, pseudo_label = {}, output.get("pseudo_label")
    if all_cams is not None:
        cams = {c: all_cams[c].float().cpu().numpy() for c in image_classes}
        if scores is None:
            threshold = model.cam_settings.background
            scores = cam_scores(all_cams[None], all_cams.new_ones(1, len(all_cams)), threshold)[0]
    return ImageResult(
        name=Path(item["file_name"]).stem,
        image=image,
        image_classes=image_classes,
        truth=truth,
        cams=cams,
        pseudo_label=None if pseudo_label is None else label_map_of(pseudo_label),
        prediction=None if scores is None else label_map_of(scores),
    )

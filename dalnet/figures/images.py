# SPDX-License-Identifier: Apache-2.0
"""Chooses images of a split and collects what a model says about them, for every figure."""

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
from dalnet.evaluation.dump import image_name
from dalnet.evaluation.scorer import label_map_of
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.image_classes import classes_of_labels
from dalnet.modeling.meta_arch import WeakSegmentor

Record = dict[str, Any]


@dataclass(frozen=True)
class ImageResult:
    """One image with its mask and predictions, all at the size of the image as it lies on disk.

    Attributes:
        name: file name without suffix, without folders.
        image: uint8 ``[H, W, 3]``, RGB.
        image_classes: classes 0..C-1 of its image-level labels.
        label_maps: uint8 ``[H, W]``, 255 for ignored, by name: ``"truth"``, ``"pseudo label"`` and
            ``"prediction"``, as far as there are any. The prediction is that of the segmentation
            head or, in a system without one, of the CAMs.
        cams: float32 ``[H, W]`` in 0..1 for each class of ``image_classes``; may be empty.
    """

    name: str
    image: np.ndarray
    image_classes: tuple[int, ...] = ()
    label_maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    cams: Mapping[int, np.ndarray] = field(default_factory=dict)


def choose_images(
    split: str,
    images: Sequence[str],
    count: int,
    seed: int = 0,
    *,
    class_name: str | None = None,
    needs_labels: bool = True,
) -> list[Record]:
    """Return the named images of a split, or ``count`` random ones sorted by name.

    Args:
        split: a registered data set.
        images: names, see :func:`dalnet.evaluation.dump.image_name`; if empty, images are chosen
            at random.
        count: number of random images.
        seed: of the random choice.
        class_name: class that every image has to show.
        needs_labels: whether every image has to have image-level labels.

    Raises:
        UsageError: no such class, an unknown or unsuitable image, or fewer than wanted.
    """
    _, *classes = MetadataCatalog.get(split).stuff_classes
    if class_name not in (None, *classes):
        hint = f"choose from {', '.join(classes)}"
        raise UsageError(f"{split} has no class {class_name!r}", "class_name", hint)
    wanted = {*range(len(classes))} if class_name is None else {classes.index(class_name)}
    records = {image_name(record): record for record in DatasetCatalog.get(split)}
    suitable = {
        name: record
        for name, record in sorted(records.items())
        if wanted & {*record["image_labels"]} or (class_name is None and not needs_labels)
    }
    for name in images:
        if name not in records:
            # Of a folder of images it is the path below it.
            hint = f"name files without suffix, as {min(records, default='none: it is empty')}"
            raise UsageError(f"{split} has no image {name!r}", "images", hint)
        if name not in suitable:
            what = f"{name} has no labels" if class_name is None else f"{name} is no {class_name}"
            raise UsageError(what, "images", "name another")
    if images:
        return [records[name] for name in dict.fromkeys(images)]
    if not 0 < count <= len(suitable):
        what = f"{split} has {len(records)} images, of which {len(suitable)} fit for this figure"
        raise UsageError(f"{count} cannot be drawn: {what}", "count", "choose from 1 to that")
    return [suitable[name] for name in sorted(random.Random(seed).sample([*suitable], count))]


def predict_images(
    cfg: CfgNode,
    model: WeakSegmentor,
    split: str,
    records: list[Record],
    needs_cams: bool = True,
) -> Iterator[ImageResult]:
    """Yield a model's results on images, one at a time; its mode is restored at the end.

    Args:
        cfg: of the model, with ``TEST.EVAL_CAM`` if CAMs are wanted.
        model: predicts by its source ``sem_seg`` or, if it has none, by ``cam``.
        split: a registered data set.
        records: some of its images.
        needs_cams: whether CAMs and pseudo labels are wanted. If not, a model with ``sem_seg``
            gets no image-level labels and so spends no time on them.

    Raises:
        UsageError: an image or mask is missing, unreadable or of the wrong size.
    """
    needs_labels = needs_cams or "sem_seg" not in model.sources
    with inference_context(model), torch.no_grad():
        for (record,) in build_test_loader(cfg, split, records, any_order=False):
            if not needs_labels:
                record.pop("image_labels", None)
            yield _predict_image(model, record)


def _predict_image(model: WeakSegmentor, record: Record) -> ImageResult:
    image = read_image(record["file_name"])
    image_classes = classes_of_labels(record.get("image_labels"))
    label_maps, cams = {}, {}
    if "sem_seg_file_name" in record:
        size, num_classes = image.shape[:2], len(model.class_names)
        label_maps["truth"] = read_mask(record["sem_seg_file_name"], size, num_classes)
    (output,) = model([record])
    all_cams, scores = output.get("cam"), output.get("sem_seg")
    if all_cams is not None:
        cams = {c: all_cams[c].float().cpu().numpy() for c in image_classes}
        if scores is None:
            scores = cam_scores(all_cams, model.cam_settings.background)
    if "pseudo_label" in output:
        label_maps["pseudo label"] = label_map_of(output["pseudo_label"])
    if scores is not None:
        label_maps["prediction"] = label_map_of(scores)
    return ImageResult(Path(record["file_name"]).stem, image, image_classes, label_maps, cams)

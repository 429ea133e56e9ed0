# SPDX-License-Identifier: Apache-2.0
"""The paper's Figures 3 to 6 of trained models on images of a registered split."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context

from dalnet.data import build_test_loader
from dalnet.data.datasets.catalog import class_table
from dalnet.data.image_io import read_image, read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.crf_pool import CRFJob
from dalnet.evaluation.predictions import Prediction, RowPredictor
from dalnet.evaluation.protocol import CAM_PROTOCOL, Protocol, Row
from dalnet.evaluation.similarity import similarity_maps
from dalnet.modeling import DALNet
from dalnet.modeling.multi_scale import crf_probabilities
from dalnet.modeling.settings import crf_parameters
from dalnet.visualization.colors import Appearance
from dalnet.visualization.figures import (
    Subject,
    cam_figure,
    comparison_figure,
    segmentation_figure,
    similarity_figure,
)
from dalnet.visualization.grid import check_format, save_figure

from .trainer import load_model

_DPI = 200

Record = dict[str, Any]


@dataclass(frozen=True)
class FigureJob:
    """What every figure needs to know.

    Attributes:
        split: name of a registered data set.
        output: the picture, .png or .pdf.
        images: file names without suffix; where there are none, ``count`` are drawn.
        count, seed: how many, and of which draw.
        colorblind: use colours that colour-blind readers can tell apart.
    """

    split: str
    output: Path
    images: tuple[str, ...] = ()
    count: int = 4
    seed: int = 0
    colorblind: bool = False

    def appearance(self) -> Appearance:
        """Names and colours of the split's classes."""
        return Appearance(*class_table(self.split), self.colorblind)


def draw_cams(cfg: CfgNode, job: FigureJob) -> None:
    """Figure 3: photograph, truth and the CAM of each class that the image shows.

    Args:
        cfg: frozen, of the model.
        job: what to draw.

    Raises:
        UsageError: images, weights or an output that cannot be used.
    """
    check_format(job.output)
    subjects, maps = _apply(cfg, job, _labelled_images(job), partial(_class_cams, cfg))
    save_figure(job.output, cam_figure(subjects, maps, job.appearance()), _DPI)


def draw_segmentations(cfg: CfgNode, job: FigureJob, protocol: Protocol) -> None:
    """Figure 4: photograph, truth and prediction of the head.

    Args:
        cfg: frozen, of the model.
        job: what to draw.
        protocol: how it is computed.

    Raises:
        UsageError: as :func:`draw_cams`.
    """
    check_format(job.output)
    row = Row.from_config(cfg, "seg", protocol)
    records = choose_images(job, lambda record: True, "")
    subjects, label_maps = _apply(cfg, job, records, partial(_segmentation, cfg, row))
    save_figure(job.output, segmentation_figure(subjects, label_maps, job.appearance()), _DPI)


def draw_comparison(
    models: Mapping[str, CfgNode], job: FigureJob, class_name: str | None = None
) -> None:
    """Figure 5: CAMs of several models side by side.

    Args:
        models: by the name that is shown above its CAMs, each model's frozen config.
        job: what to draw.
        class_name: whose CAM, of images that show it; where not given, the largest CAM of the
            classes that an image shows.

    Raises:
        UsageError: as :func:`draw_cams`, or no such class.
    """
    check_format(job.output)
    records = _labelled_images(job) if class_name is None else _images_of(job, class_name)
    names = MetadataCatalog.get(job.split).stuff_classes
    wanted = None if class_name is None else names.index(class_name)
    columns, captions = {}, []
    for title, cfg in models.items():
        subjects, maps = _apply(cfg, job, records, partial(_class_cams, cfg))
        chosen = [[wanted] if wanted else sorted(one) for one in maps]
        columns[title] = [
            np.max([one[label] for label in labels], axis=0)
            for one, labels in zip(maps, chosen, strict=True)
        ]
        captions = [", ".join(names[label] for label in labels) for labels in chosen]
    save_figure(job.output, comparison_figure(subjects, captions, columns, job.appearance()), _DPI)


def draw_similarities(cfg: CfgNode, job: FigureJob, stretch: bool = False) -> None:
    """Figure 6: similarity of the patches with the texts of classes and background.

    Args:
        cfg: frozen, of the model.
        job: what to draw.
        stretch: colour each map by its own range, not by that of all.

    Raises:
        UsageError: as :func:`draw_cams`, or a model that was trained without alignment.
    """
    check_format(job.output)
    subjects, maps = _apply(cfg, job, _labelled_images(job), similarity_maps)
    figure = similarity_figure(subjects, maps, job.appearance(), stretch)
    save_figure(job.output, figure, _DPI)


def choose_images(
    job: FigureJob, suits: Callable[[Record], bool], shortcoming: str
) -> list[Record]:
    """The images that the job names, or as many as it wants at random, sorted by name.

    Args:
        job: what to draw.
        suits: whether the figure can show an image of the split.
        shortcoming: what is wrong with one that it cannot show, after "the image ...".

    Raises:
        UsageError: an unknown or unsuitable image, or fewer than wanted.
    """
    records = {Path(record["file_name"]).stem: record for record in DatasetCatalog.get(job.split)}
    for name in job.images:
        if name not in records:
            raise UsageError(
                f"{job.split} has no image {name!r}; --images takes file names without suffix, "
                f"as {min(records, default='none: the split is empty')}."
            )
        if not suits(records[name]):
            raise UsageError(f"The image {name} {shortcoming}; name another.")
    if job.images:
        return [records[name] for name in dict.fromkeys(job.images)]
    suitable = sorted(name for name, record in records.items() if suits(record))
    if not 0 < job.count <= len(suitable):
        raise UsageError(
            f"--count {job.count} images cannot be drawn: {job.split} has {len(records)}, "
            f"{len(suitable)} of them fit for this figure; choose from 1 to that."
        )
    drawn = random.Random(job.seed).sample(suitable, job.count)
    return [records[name] for name in sorted(drawn)]


def _labelled_images(job: FigureJob) -> list[Record]:
    shortcoming = "has no image-level labels, so there is no class to draw"
    return choose_images(job, lambda record: bool(record["image_labels"]), shortcoming)


def _images_of(job: FigureJob, class_name: str) -> list[Record]:
    classes = MetadataCatalog.get(job.split).stuff_classes[1:]
    if class_name not in classes:
        raise UsageError(
            f"{job.split} has no class {class_name!r}; its classes are {', '.join(classes)}."
        )
    wanted = classes.index(class_name)
    shortcoming = f"is not labelled {class_name!r}"
    return choose_images(job, lambda record: wanted in record["image_labels"], shortcoming)


def _apply(
    cfg: CfgNode,
    job: FigureJob,
    records: list[Record],
    compute: Callable[[DALNet, Record], Any],
) -> tuple[list[Subject], list[Any]]:
    """Load the model and compute something for each image; returns the images and the results."""
    model = load_model(cfg)
    subjects, results = [], []
    with inference_context(model), torch.no_grad():
        for batch in build_test_loader(cfg, job.split, records):
            for item in batch:
                subjects.append(_subject(item, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES))
                results.append(compute(model, item))
    return subjects, results


def _subject(item: Record, num_classes: int) -> Subject:
    photo, truth = read_image(item["file_name"]), None
    if "sem_seg_file_name" in item:
        truth = read_mask(item["sem_seg_file_name"], photo.shape[:2], num_classes)
    return Subject(Path(item["file_name"]).stem, photo, truth)


def _class_cams(cfg: CfgNode, model: DALNet, item: Record) -> dict[int, np.ndarray]:
    """By label, CAMs float32 [H, W] in 0..1 of the classes that the image shows."""
    prediction = _predict(cfg, Row.from_config(cfg, "cam", CAM_PROTOCOL), model, item)
    cams = prediction.cams.cpu().numpy()
    return {c + 1: cam for c, cam in zip(prediction.present, cams, strict=True)}


def _segmentation(cfg: CfgNode, row: Row, model: DALNet, item: Record) -> np.ndarray:
    """The head's label map, [H, W]."""
    prediction = _predict(cfg, row, model, item)
    if prediction.crf is None:
        return prediction.labels
    return _run_crf(prediction.crf, crf_parameters(cfg))


def _predict(cfg: CfgNode, row: Row, model: DALNet, item: Record) -> Prediction:
    threshold = cfg.MODEL.DALNET.CAM.BACKGROUND_THRESHOLD
    return RowPredictor(model, [row], threshold)(item)[0]


def _run_crf(job: CRFJob, parameters: Mapping[str, float]) -> np.ndarray:
    pixels = torch.from_numpy(job.photograph).permute(2, 0, 1)[None].float()
    probs = crf_probabilities(pixels, torch.from_numpy(job.probs)[None], **parameters)
    return probs[0].argmax(dim=0).numpy()

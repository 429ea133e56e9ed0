# SPDX-License-Identifier: Apache-2.0
"""Predicting pictures and films from disk, one after the other, into a folder."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from dalnet.data.datasets.catalog import class_table
from dalnet.data.images import read_photo
from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol
from .legend import annotate

from .files import PredictionInput, PredictionWriter
from .predictor import Predictor, label_values
from .video import VideoReader, complete_video

logger = logging.getLogger(__name__)

KINDS = ("overlay", "mask", "cam")


@dataclass(frozen=True)
class PredictionJob:
    """What to predict and what to keep of it.

    Attributes:
        inputs: pictures and films.
        output: folder of the results.
        save: of :data:`KINDS`; None for overlays and, of pictures, masks.
        classes: shown in overlays and by CAMs; None for all. Masks have all in any case.
        cam_classes: classes of the CAMs, which are then saved; None for those found.
        protocol: None for what the config says.
    """

    inputs: Sequence[PredictionInput]
    output: Path
    save: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    cam_classes: Sequence[str] | None = None
    protocol: Protocol | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be saved.

        Raises:
            UsageError: an unknown kind, or films without any.
        """
        unknown = set(self.save or ()) - set(KINDS)
        if unknown:
            raise UsageError(
                f"{sorted(unknown)[0]!r} cannot be saved; choose of {', '.join(KINDS)}."
            )
        if any(item.is_video for item in self.inputs) and not self.kinds(is_video=True):
            raise UsageError("Films have no CAMs: save their overlay or mask.")

    def kinds(self, is_video: bool) -> set[str]:
        """What is saved of a picture or of a film, which has no CAMs."""
        if is_video:
            return {"overlay", "mask"} & set(self.save or ["overlay"])
        chosen = {"overlay", "mask"} if self.save is None else set(self.save)
        return chosen | {"cam"} if self.cam_classes else chosen


def predict_inputs(cfg: CfgNode, job: PredictionJob) -> int:
    """Predict everything that can be; the rest is listed at the end with the reason.

    Args:
        cfg: of the model.
        job: what to predict.

    Returns:
        How many inputs were predicted, at least 1.

    Raises:
        UsageError: settings that do not fit, results that cannot be written, an interrupt, or
            none of the inputs could be predicted.
    """
    names, _ = class_table(cfg.DATASETS.TRAIN[0])
    label_values(names, [*(job.classes or ()), *(job.cam_classes or ())])
    writer = PredictionWriter(job.output, job.inputs)
    writer.check(names if "cam" in job.kinds(False) else ())
    worker = _Worker(cfg, job, writer)
    failed: list[str] = []
    try:
        for item in tqdm(job.inputs, unit="input", disable=len(job.inputs) == 1):
            reason = worker.video(item) if item.is_video else worker.picture(item)
            if reason is not None:
                failed.append(reason)
    except KeyboardInterrupt:
        raise UsageError(
            f"interrupted; what is in {job.output} by now is complete, the rest is missing."
        ) from None
    return _report(job, failed)


def _report(job: PredictionJob, failed: Sequence[str]) -> int:
    for reason in failed:
        logger.warning("left out: %s", reason)
    done, count = len(job.inputs) - len(failed), len(job.inputs)
    if not done:
        raise UsageError(f"none of {count} input(s) could be predicted: {failed[0]}")
    logger.info("%d of %d input(s) predicted; the results are in %s", done, count, job.output)
    return done


def _reason(item: PredictionInput, error: UsageError) -> str:
    reason = str(error)
    return reason if str(item.source) in reason else f"{item.source}: {reason}"


class _Worker:
    """Predicts and writes one input at a time; returns the reason where one cannot be used."""

    def __init__(self, cfg: CfgNode, job: PredictionJob, writer: PredictionWriter) -> None:
        self.job, self.writer = job, writer
        self.names, self.colors = class_table(cfg.DATASETS.TRAIN[0])
        shown = label_values(self.names, self.names[1:] if job.classes is None else job.classes)
        self.shown = np.zeros(256, bool)
        self.shown[shown] = True
        self.predictor = Predictor(cfg, job.protocol)

    def picture(self, item: PredictionInput) -> str | None:
        kinds = self.job.kinds(is_video=False)
        try:
            photo = read_photo(str(item.source))
            result = self.predictor(photo, self.job.cam_classes if "cam" in kinds else ())
        except UsageError as error:
            return _reason(item, error)
        if "overlay" in kinds:
            self.writer.write_overlay(item, self._overlay(photo, result["labels"]))
        if "mask" in kinds:
            self.writer.write_mask(item, result["labels"])
        self.writer.write_cams(item, photo, self._chosen(result["cams"]))
        return None

    def video(self, item: PredictionInput) -> str | None:
        try:
            self._film(item, VideoReader(item.source))
        except UsageError as error:
            return _reason(item, error)
        return None

    def _film(self, item: PredictionInput, reader: VideoReader) -> None:
        kinds = self.job.kinds(is_video=True)
        with contextlib.ExitStack() as stack:
            film = None
            if "overlay" in kinds:
                path = self.writer.overlay_path(item)
                film = stack.enter_context(complete_video(path, reader.rate, reader.live))
            if reader.live:
                # This is how a camera is switched off; the film up to there is wanted.
                stack.enter_context(contextlib.suppress(KeyboardInterrupt))
            bar = tqdm(reader, str(item.source), reader.announced or None, unit="frame")
            for number, photo in enumerate(bar):
                labels = self.predictor(photo, ())["labels"]
                if "mask" in kinds:
                    self.writer.write_mask(item, labels, number)
                if film is not None:
                    film.write(self._overlay(photo, labels, keep_size=True))

    def _overlay(
        self, photo: np.ndarray, labels: np.ndarray, keep_size: bool = False
    ) -> np.ndarray:
        shown = np.where(self.shown[labels], labels, 0)
        return annotate(photo, shown, self.names, self.colors, keep_size)

    def _chosen(self, cams: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """CAMs of classes that were only found are shown as overlays show them."""
        wanted = self.job.cam_classes or self.job.classes
        return {name: cam for name, cam in cams.items() if not wanted or name in wanted}

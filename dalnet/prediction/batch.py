# SPDX-License-Identifier: Apache-2.0
"""Predicts images and videos from disk, one after the other, into a folder."""

import contextlib
import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.image_io import open_image
from dalnet.errors import UsageError, printable
from dalnet.io import atomic_write

from .files import PredictionInput, ResultPaths
from .prediction import label_values
from .predictor import Predictor
from .video import VideoReader, write_video

logger = logging.getLogger(__name__)

KINDS = ("overlay", "mask", "cam")
# With these, the next input would fail alike.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class PredictOptions:
    """What to keep of predictions.

    Attributes:
        save: of :data:`KINDS`; None for overlays and, of images, masks. Videos have no CAMs.
        classes: shown in overlays and by CAMs; None for all. Masks have all in any case.
        image_classes: classes of the CAMs, which are then saved; None for those found. A system
            without segmentation head finds only these.
    """

    save: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    image_classes: Sequence[str] | None = None


def predict_files(
    predictor: Predictor,
    inputs: Sequence[PredictionInput],
    output: Path,
    options: PredictOptions,
) -> int:
    """Predict every input that can be; the log lists the others with the reason.

    Args:
        predictor: the model.
        inputs: images and videos.
        output: folder of the results, see :class:`.files.ResultPaths`.
        options: what to keep.

    Returns:
        How many inputs were predicted, at least 1.

    Raises:
        UsageError: an unknown kind or class, an interrupt, a full disk, or none of the inputs
            could be predicted.
    """
    unknown = set(options.save or ()) - set(KINDS)
    if unknown:
        hint = f"choose from {', '.join(KINDS)}"
        raise UsageError(f"{min(unknown)!r} cannot be saved", "save", hint)
    if "cam" in (options.save or ()) and not predictor.has_cams:
        raise UsageError("the system has no CAMs", "save", "save overlay or mask")
    label_values(predictor.class_names, options.classes or (), "classes")
    label_values(predictor.class_names, options.image_classes or ())
    paths = ResultPaths(output, inputs, predictor.class_names)
    failed: list[str] = []
    try:
        for entry in tqdm(inputs, unit="input", disable=len(inputs) == 1):
            try:
                predict = _predict_video if entry.is_video else _predict_image
                predict(predictor, entry, paths, options)
            except UsageError as error:
                if getattr(error.__cause__, "errno", None) in _DISK_ERRORS:
                    raise
                failed.append(_reason(entry, error))
    except KeyboardInterrupt:
        what = f"interrupted; what is in {output} by now is complete, the rest is missing"
        raise UsageError(what) from None
    for reason in failed:
        logger.warning("left out: %s", reason)
    done = len(inputs) - len(failed)
    if not done:
        raise UsageError(f"none of {len(inputs)} input(s) could be predicted: {failed[0]}")
    logger.info("%d of %d input(s) predicted; the results are in %s", done, len(inputs), output)
    return done


def _reason(entry: PredictionInput, error: UsageError) -> str:
    source = printable(str(entry.source))
    return str(error) if source in str(error) else f"{source}: {error}"


def _predict_image(
    predictor: Predictor, entry: PredictionInput, paths: ResultPaths, options: PredictOptions
) -> None:
    assert isinstance(entry.source, Path)
    save = options.save or ("overlay", "mask")
    wants_cams = "cam" in save or bool(options.image_classes)
    needed = wants_cams or predictor.needs_image_classes
    prediction = predictor(entry.source, options.image_classes if needed else ())
    with open_image(str(entry.source), "image") as image:
        frames = getattr(image, "n_frames", 1)
        # What a camera's MPO has beside its first image is another view, or a preview, of it.
        if frames > 1 and image.format != "MPO":
            logger.warning("%s: only the first of its %d images is predicted", entry.source, frames)
    if "overlay" in save:
        _save_image(paths.overlay(entry), prediction.overlay(options.classes))
    if "mask" in save:
        prediction.save(paths.mask(entry))
    # CAMs of classes that were only found are shown as overlays show them.
    shown = options.image_classes or options.classes or prediction.cams
    for name in prediction.cams if wants_cams else ():
        if name in shown:
            _save_image(paths.cam(entry, name), prediction.cam_overlay(name))


def _predict_video(
    predictor: Predictor, entry: PredictionInput, paths: ResultPaths, options: PredictOptions
) -> None:
    save = options.save or ("overlay",)
    if not {"overlay", "mask"} & set(save):
        raise UsageError("videos have no CAMs", "save", "save their overlay or mask")
    image_classes = options.image_classes if predictor.needs_image_classes else ()
    reader = VideoReader(entry.source)
    with contextlib.ExitStack() as stack:
        write = None
        if "overlay" in save:
            path = paths.overlay(entry)
            write = stack.enter_context(write_video(path, reader.rate, reader.live))
        if reader.live:
            # This is how a camera is switched off; the video up to there is wanted.
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        bar = tqdm(reader, str(entry.source), reader.announced or None, unit="frame")
        for number, frame in enumerate(bar):
            prediction = predictor(frame, image_classes)
            if "mask" in save:
                prediction.save(paths.mask(entry, number))
            if write is not None:
                write(prediction.overlay(options.classes))


def _save_image(path: Path, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W, 3], as its suffix says, whole or not at all."""
    with atomic_write(path) as unfinished:
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        Image.fromarray(image).save(unfinished, format=kind, quality=95)

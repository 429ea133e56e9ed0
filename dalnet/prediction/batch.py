# SPDX-License-Identifier: Apache-2.0
"""Predicts images and videos from disk, one after the other or in batches, into a folder."""

import contextlib
import errno
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.image_io import open_image, read_image
from dalnet.errors import UsageError, printable
from dalnet.io import atomic_write

from .files import PredictionInput, ResultPaths
from .prediction import Prediction, label_values
from .predictor import Predictor
from .video import VideoReader, write_video

logger = logging.getLogger(__name__)

KINDS = ("overlay", "mask", "cam")
# With these, the next input would fail alike.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


# Groups of images of one size that may be in memory at once.
_WAITING = 4


@dataclass(frozen=True)
class _LoadedImage:
    """An image on disk, and its pixels, uint8 ``[H, W, 3]``."""

    entry: PredictionInput
    pixels: np.ndarray


@dataclass(frozen=True)
class _Failure:
    """An input that could not be predicted, and why."""

    entry: PredictionInput
    reason: str
    is_unreadable: bool = False  # an image whose file itself cannot be read


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

    def kinds(self, is_video: bool = False) -> set[str]:
        """Return what is saved of an image or a video."""
        kinds = {*(self.save or (("overlay",) if is_video else ("overlay", "mask")))}
        return kinds | {"cam"} if self.image_classes and not is_video else kinds


def predict_files(
    predictor: Predictor,
    inputs: Sequence[PredictionInput],
    output: Path,
    options: PredictOptions,
    batch: int = 1,
) -> int:
    """Predict every input that can be; the log lists the others with the reason.

    Args:
        predictor: the model.
        inputs: images and videos.
        output: folder of the results, see :class:`.files.ResultPaths`.
        options: what to keep.
        batch: images of one size, or frames of a video, that go through the network together.

    Returns:
        How many inputs were predicted, at least 1.

    Raises:
        UsageError: an unknown kind or class, an interrupt, a full disk, or none of the inputs
            could be predicted.
    """
    if batch < 1:
        raise UsageError(f"it is {batch}", "batch", "use 1 or more")
    unknown = set(options.save or ()) - set(KINDS)
    if unknown:
        hint = f"choose from {', '.join(KINDS)}"
        raise UsageError(f"{min(unknown)!r} cannot be saved", "save", hint)
    if "cam" in (options.save or ()) and not predictor.has_cams:
        raise UsageError("the system has no CAMs", "save", "save overlay or mask")
    label_values(predictor.class_names, options.classes or (), "classes")
    label_values(predictor.class_names, options.image_classes or ())
    paths = ResultPaths(output, inputs, predictor.class_names)
    failed: list[_Failure] = []
    bar = tqdm(inputs, unit="input", disable=len(inputs) == 1)
    try:
        for group in _group_by_size(bar, batch, failed):
            if isinstance(group, PredictionInput):
                with _left_out(group, failed):
                    _predict_video(predictor, group, paths, options, batch)
            else:
                _predict_images(predictor, group, paths, options, failed)
    except KeyboardInterrupt:
        what = f"interrupted; what is in {output} by now is complete, the rest is missing"
        raise UsageError(what) from None
    for failure in failed:
        logger.warning("left out: %s", failure.reason)
    done = len(inputs) - len(failed)
    if not done:
        raise UsageError(f"none of {len(inputs)} input(s) could be predicted: {failed[0].reason}")
    for failure in failed:
        if failure.is_unreadable:  # there is no such image any more, as far as results go
            with contextlib.suppress(UsageError):  # paths that are not its own
                _remove_earlier(failure.entry, paths, options)
    logger.info("%d of %d input(s) predicted; the results are in %s", done, len(inputs), output)
    return done


def _reason(entry: PredictionInput, error: UsageError) -> str:
    source = printable(str(entry.source))
    return str(error) if source in str(error) else f"{source}: {error}"


@contextlib.contextmanager
def _left_out(entry: PredictionInput, failed: list[_Failure]) -> Iterator[None]:
    """Note why an input cannot be predicted; raise only where the next one would fail alike."""
    try:
        yield
    except UsageError as error:
        if getattr(error.__cause__, "errno", None) in _DISK_ERRORS:
            raise
        failed.append(_Failure(entry, _reason(entry, error)))


def _group_by_size(
    inputs: Iterable[PredictionInput], batch: int, failed: list[_Failure]
) -> Iterator[PredictionInput | list[_LoadedImage]]:
    """Yield each video, and the images in groups of one size, at most ``batch`` in a group.

    An image waits until its group is full; if many sizes come, the largest group goes before that.
    """
    waiting: dict[tuple[int, ...], list[_LoadedImage]] = {}
    for entry in inputs:
        if entry.is_video:
            yield entry
            continue
        assert isinstance(entry.source, Path)
        try:
            pixels = _read(entry.source)
        except UsageError as error:
            failed.append(_Failure(entry, _reason(entry, error), is_unreadable=True))
            continue
        waiting.setdefault(pixels.shape, []).append(_LoadedImage(entry, pixels))
        all_waiting = sum(map(len, waiting.values()))
        if len(waiting[pixels.shape]) == batch or all_waiting == _WAITING * batch:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _read(path: Path) -> np.ndarray:
    """Return an image, uint8 ``[H, W, 3]``, of a file that may hold several."""
    with open_image(str(path), "image") as image:
        frames = getattr(image, "n_frames", 1)
        # What a camera's MPO has beside its first image is another view, or a preview, of it.
        if frames > 1 and image.format != "MPO":
            logger.warning("%s: only the first of its %d images is predicted", path, frames)
    return read_image(str(path))


def _predict_images(
    predictor: Predictor,
    group: Sequence[_LoadedImage],
    paths: ResultPaths,
    options: PredictOptions,
    failed: list[_Failure],
) -> None:
    """Predict images of one size and write the results; note those that cannot be predicted."""
    needed = "cam" in options.kinds() or predictor.needs_image_classes
    try:
        pixels = [one.pixels for one in group]
        predictions = predictor.predict_batch(pixels, options.image_classes if needed else ())
    except UsageError as error:
        reason = _reason(group[0].entry, error)
    else:
        for one, prediction in zip(group, predictions, strict=True):
            with _left_out(one.entry, failed):
                _write_results(prediction, one.entry, paths, options)
        return
    if len(group) == 1:
        failed.append(_Failure(group[0].entry, reason))
        return
    # Together they may need too much memory; one alone may not.
    for one in group:
        _predict_images(predictor, [one], paths, options, failed)


def _write_results(
    prediction: Prediction,
    entry: PredictionInput,
    paths: ResultPaths,
    options: PredictOptions,
) -> None:
    kinds = options.kinds()
    _remove_earlier(entry, paths, options)
    if "overlay" in kinds:
        _save_image(paths.overlay(entry), prediction.overlay(options.classes))
    if "mask" in kinds:
        prediction.save(paths.mask(entry))
    # CAMs of classes that were only found are shown as overlays show them.
    shown = options.image_classes or options.classes or prediction.cams
    for name in prediction.cams if "cam" in kinds else ():
        if name in shown:
            _save_image(paths.cam(entry, name), prediction.cam_overlay(name))


def _remove_earlier(entry: PredictionInput, paths: ResultPaths, options: PredictOptions) -> None:
    """Remove the results of an earlier run for an input, of the kinds that this run saves.

    They may be of classes that are no longer asked for, or of more frames.
    """
    for path in paths.existing(entry, options.kinds(entry.is_video)):
        path.unlink(missing_ok=True)


def _predict_video(
    predictor: Predictor,
    entry: PredictionInput,
    paths: ResultPaths,
    options: PredictOptions,
    batch: int,
) -> None:
    kinds = options.kinds(is_video=True)
    if not {"overlay", "mask"} & kinds:
        raise UsageError("videos have no CAMs", "save", "save their overlay or mask")
    image_classes = options.image_classes if predictor.needs_image_classes else ()
    reader = VideoReader(entry.source)
    _remove_earlier(entry, paths, options)
    with contextlib.ExitStack() as stack:
        write = None
        if "overlay" in kinds:
            path = paths.overlay(entry)
            write = stack.enter_context(write_video(path, reader.rate, reader.live))
        if reader.live:
            # This is how a camera is switched off; the video up to there is wanted.
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        frames = iter(tqdm(reader, str(entry.source), reader.announced or None, unit="frame"))
        number = itertools.count()
        # What a camera shows is wanted at once.
        while some := list(itertools.islice(frames, 1 if reader.live else batch)):
            for prediction in predictor.predict_batch(some, image_classes):
                if "mask" in kinds:
                    prediction.save(paths.mask(entry, next(number)))
                if write is not None:
                    write(prediction.overlay(options.classes))


def _save_image(path: Path, image: np.ndarray) -> None:
    """Write an image, uint8 [H, W, 3], as its suffix says, whole or not at all."""
    with atomic_write(path) as unfinished:
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        Image.fromarray(image).save(unfinished, format=kind, quality=95)

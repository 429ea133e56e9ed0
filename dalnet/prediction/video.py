# SPDX-License-Identifier: Apache-2.0
"""Reads videos and cameras, and writes videos, through OpenCV."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from dalnet.errors import UsageError
from dalnet.io import atomic_write

logger = logging.getLogger(__name__)

_UNKNOWN_RATE = 25.0
_RATES = (0.01, 1000.0)  # frames a second that MPEG-4 can hold
_MAX_DRIFT = 0.2  # seconds that a frame may stand beside its place in a video of constant rate


class VideoReader:
    """The frames of a video or camera. Iterating, possible once, yields RGB, uint8 ``[H, W, 3]``.

    Frames are upright where the video says how it was held. Iterating raises ``UsageError`` where
    there is no frame, and logs where there are fewer than announced, or at uneven distances.

    Attributes:
        live: whether it is a camera.
        rate: frames per second; 25 where the source does not say.
        announced: number of frames, 0 where the source does not say.
    """

    def __init__(self, source: Path | int) -> None:
        """Open a file, or the camera of that number.

        Raises:
            UsageError: OpenCV cannot open it.
        """
        self._source, self.live = source, isinstance(source, int)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else _as_text(source))
        if not self._capture.isOpened():
            place = f"camera {source}" if self.live else source
            raise UsageError("OpenCV cannot open it", place, "give another, or convert it")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        # Not so for NaN either.
        known = _RATES[0] <= rate <= _RATES[1]
        self.rate = rate if known else _UNKNOWN_RATE
        if not known and not self.live:
            message = "%s: its frame rate is %s; %g frames a second are assumed"
            logger.warning(message, source, rate, self.rate)
        self.announced = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        count, start, drift = 0, 0.0, 0.0
        try:
            while (frame := self._capture.read()[1]) is not None:
                now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                start = start if count else now
                # Some containers give no times.
                drift = max(drift, abs(now - start - count / self.rate) if now > 0 else 0)
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                count += 1
        finally:
            self._capture.release()
        if not count:
            raise UsageError("no frame of it can be read", self._source, "convert it")
        if count < self.announced:
            logger.warning("%s: only %d of %d frames are read", self._source, count, self.announced)
        if drift > _MAX_DRIFT and not self.live:
            message = (
                "%s: its frame rate varies; it is written with %.4g frames a second throughout"
            )
            logger.warning(message, self._source, self.rate)


@contextlib.contextmanager
def write_video(
    path: Path, rate: float, live: bool = False
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a frame, RGB, uint8 ``[H, W, 3]``, to an MPEG-4 video.

    The video appears as ``path`` if the block succeeds, and not at all otherwise. The last row or
    column of an odd size is cut off: the format has none.

    Args:
        path: ends in ``.mp4``.
        rate: frames per second.
        live: the video lasts as long as its making: a frame is written as often as that takes.

    Raises:
        UsageError: it cannot be written, or nothing was.
    """
    _as_text(path)
    writer, count, start = cv2.VideoWriter(), 0, time.monotonic()
    with atomic_write(path) as unfinished:
        # OpenCV chooses the container by the suffix.
        temporary = unfinished.with_name(f"{unfinished.name}.mp4")

        def write(frame: np.ndarray) -> None:
            nonlocal count
            size, codec = frame.shape[1::-1], cv2.VideoWriter.fourcc(*"mp4v")
            if not (count or writer.open(str(temporary), codec, rate, size)):
                what = f"no video of {size[0]} x {size[1]} pixels can be written"
                raise UsageError(what, path, "free the place or name another")
            due = max(round((time.monotonic() - start) * rate) if live else 0, count + 1)
            for _ in range(due - count):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count = due

        try:
            yield write
            writer.release()
            # OpenCV does not say when the disk is full.
            if not count or VideoReader(temporary).announced < count:
                raise UsageError("the video is not complete", path, "free the place and try again")
            temporary.replace(unfinished)
        finally:
            writer.release()
            temporary.unlink(missing_ok=True)


def _as_text(path: Path) -> str:
    """Return a path as text that OpenCV can take, which crashes at any other."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError as error:
        raise UsageError("OpenCV needs a name in UTF-8", path, "rename it") from error
    return str(path)

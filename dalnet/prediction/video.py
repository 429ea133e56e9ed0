# SPDX-License-Identifier: Apache-2.0
"""Videos and cameras in, videos out, through OpenCV."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from dalnet.errors import UsageError
from dalnet.io import atomic_write

logger = logging.getLogger(__name__)

_UNKNOWN_RATE = 25.0


class VideoReader:
    """The frames of a video or camera. Iterating, possible once, yields RGB, uint8 ``[H, W, 3]``.

    It raises ``UsageError`` where there is no frame, and logs where there are fewer than announced.

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
        self._capture = cv2.VideoCapture(source if self.live else str(source))
        if not self._capture.isOpened():
            name = f"Camera {source}" if self.live else f"The video {source}"
            raise UsageError(f"{name} cannot be opened by OpenCV; give another, or convert it.")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _UNKNOWN_RATE
        self.announced = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        count = 0
        try:
            while (frame := self._capture.read()[1]) is not None:
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                count += 1
        finally:
            self._capture.release()
        if not count:
            raise UsageError(f"The video {self._source} has no frame that can be read; convert it.")
        if count < self.announced:
            logger.warning("%s: only %d of %d frames are read", self._source, count, self.announced)


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
    writer, count, start = cv2.VideoWriter(), 0, time.monotonic()
    with atomic_write(path) as unfinished:
        # OpenCV chooses the container by the suffix.
        temporary = unfinished.with_name(f"{unfinished.name}.mp4")

        def write(frame: np.ndarray) -> None:
            nonlocal count
            size, codec = frame.shape[1::-1], cv2.VideoWriter_fourcc(*"mp4v")
            if not (count or writer.open(str(temporary), codec, rate, size)):
                raise UsageError(
                    f"No video of {size[0]} x {size[1]} pixels can be written to {path}; free the "
                    "place or name another."
                )
            due = max(round((time.monotonic() - start) * rate) if live else 0, count + 1)
            for _ in range(due - count):
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count = due

        try:
            yield write
            writer.release()
            # OpenCV does not say when the disk is full.
            if not count or VideoReader(temporary).announced < count:
                raise UsageError(f"The video {path} is not complete; free the place and try again.")
            temporary.replace(unfinished)
        finally:
            writer.release()
            temporary.unlink(missing_ok=True)

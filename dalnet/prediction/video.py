# SPDX-License-Identifier: Apache-2.0
"""Films and cameras in, films out, through OpenCV."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_UNKNOWN_RATE = 25.0


class VideoReader:
    """The frames of a film or a camera. Iterating, possible once, yields RGB, uint8 [H, W, 3].

    It raises ``UsageError`` where there is no frame, and logs where there are less than announced.

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
        if not self.live and not source.is_file():
            raise UsageError(f"video {source} does not exist: correct the path.")
        self._capture = cv2.VideoCapture(source if self.live else str(source))
        if not self._capture.isOpened():
            raise UsageError(
                f"there is no camera {source} that can be opened: give another number to --webcam."
                if self.live
                else f"video {source} cannot be read by OpenCV: convert it, as to .mp4."
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _UNKNOWN_RATE
        self.announced = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        count = 0
        try:
            while True:
                found, frame = self._capture.read()
                if not found:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                count += 1
        finally:
            self._capture.release()
        if not count:
            raise UsageError(f"video {self._source} has no frame that can be read: convert it.")
        if count < self.announced:
            logger.warning(
                "%s: only %d of %d frames can be read.", self._source, count, self.announced
            )


class VideoWriter:
    """Writes frames, all of one size, as MPEG-4 (``mp4v``).

    The last row or column of an odd size is cut off: the format has none.
    """

    def __init__(self, path: Path, rate: float, live: bool) -> None:
        """Write to ``path``, which ends in ``.mp4``, at ``rate`` frames per second.

        A ``live`` film lasts as long as its making: a frame is written as often as it takes.
        """
        self.count = 0
        self._path, self._rate, self._live = path, rate, live
        self._writer: cv2.VideoWriter | None = None
        self._start = time.monotonic()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, RGB, uint8 [H, W, 3].

        Raises:
            UsageError: the file cannot be written at this size.
        """
        if self._writer is None:
            size = frame.shape[1::-1]
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, size)
            if not self._writer.isOpened():
                raise UsageError(
                    f"no film of {size[0]} x {size[1]} pixels can be written to "
                    f"{self._path.parent}: free the place or name another."
                )
        due = self.count + 1
        if self._live:
            due = max(round((time.monotonic() - self._start) * self._rate), due)
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        for _ in range(due - self.count):
            self._writer.write(picture)
        self.count = due

    def release(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()


@contextlib.contextmanager
def complete_video(path: Path, rate: float, live: bool) -> Iterator[VideoWriter]:
    """A writer whose film appears as ``path`` if the block succeeds, and not at all otherwise.

    Raises:
        UsageError: it cannot be written, or nothing was.
    """
    with complete_or_absent(path) as unfinished:
        # OpenCV chooses the container by the suffix.
        temporary = unfinished.with_name(f"{unfinished.name}.mp4")
        writer = VideoWriter(temporary, rate, live)
        try:
            yield writer
            writer.release()
            if not writer.count:
                raise UsageError(f"there was no frame yet to be written to {path}.")
            # OpenCV does not say when the disk is full.
            if VideoReader(temporary).announced < writer.count:
                raise UsageError(f"the film {path} is not complete: free the place and try again.")
            temporary.replace(unfinished)
        finally:
            writer.release()
            temporary.unlink(missing_ok=True)

# SPDX-License-Identifier: Apache-2.0
"""Films in and out, whole or not at all; a camera played by a film."""

import logging

import cv2
import numpy as np
import pytest

from dalnet.prediction import video
from dalnet.prediction.video import VideoReader, complete_video
from dalnet.errors import UsageError

RED = (200, 0, 0)


def make_film(path, frames, size=(48, 64), rate=12.0):
    with complete_video(path, rate, live=False) as film:
        for _ in range(frames):
            film.write(np.full((*size, 3), RED, np.uint8))


def test_there_and_back(tmp_path):
    make_film(tmp_path / "sub" / "x.mp4", 5)
    reader = VideoReader(tmp_path / "sub" / "x.mp4")
    assert (reader.rate, reader.announced, reader.live) == (12.0, 5, False)
    frames = list(reader)
    assert len(frames) == 5
    assert frames[0].shape == (48, 64, 3)
    # RGB, as far as the compression keeps it.
    np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), RED, atol=15)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.mp4"]


def test_odd_sizes(tmp_path):
    make_film(tmp_path / "x.mp4", 2, size=(49, 65))
    assert next(iter(VideoReader(tmp_path / "x.mp4"))).shape == (48, 64, 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError])
def test_nothing_half_written(tmp_path, error):
    make_film(tmp_path / "x.mp4", 2)
    before = (tmp_path / "x.mp4").read_bytes()
    with pytest.raises(error), complete_video(tmp_path / "x.mp4", 12.0, live=False) as film:
        film.write(np.zeros((48, 64, 3), np.uint8))
        raise error
    assert (tmp_path / "x.mp4").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    with (
        pytest.raises(UsageError, match="x.mp4 is not complete"),
        complete_video(tmp_path / "x.mp4", 12.0, live=False) as film,
    ):
        for _ in range(3):
            film.write(np.zeros((48, 64, 3), np.uint8))
        film.count += 1  # a frame that never reached the disk
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_film(tmp_path):
    with pytest.raises(UsageError, match="1 x 1 pixels"):
        make_film(tmp_path / "x.mp4", 1, size=(1, 1))
    with pytest.raises(UsageError, match="no frame yet"):
        make_film(tmp_path / "x.mp4", 0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.mp4").write_bytes(b"no film")
    with pytest.raises(UsageError, match="x.mp4 cannot be read"):
        VideoReader(tmp_path / "x.mp4")
    with pytest.raises(UsageError, match="gone.mp4 does not exist"):
        VideoReader(tmp_path / "gone.mp4")
    with pytest.raises(UsageError, match="no camera 99"):
        VideoReader(99)


class Cut:
    """A capture that announces more frames than it has."""

    def __init__(self, capture, frames):
        self.capture, self.frames = capture, frames

    def __getattr__(self, name):
        return getattr(self.capture, name)

    def read(self):
        self.frames -= 1
        return self.capture.read() if self.frames >= 0 else (False, None)


def test_a_film_that_breaks_off(tmp_path, monkeypatch, caplog):
    make_film(tmp_path / "x.mp4", 4)
    open_film = cv2.VideoCapture
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda source: Cut(open_film(source), 3))
    with caplog.at_level(logging.WARNING):
        assert len(list(VideoReader(tmp_path / "x.mp4"))) == 3
    assert "only 3 of 4 frames" in caplog.text
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda source: Cut(open_film(source), 0))
    with pytest.raises(UsageError, match="no frame that can be read"):
        list(VideoReader(tmp_path / "x.mp4"))


def test_a_camera_film_lasts_as_long_as_its_making(tmp_path, monkeypatch):
    make_film(tmp_path / "in.mp4", 3, rate=10.0)
    open_film = cv2.VideoCapture
    camera = str(tmp_path / "in.mp4")
    monkeypatch.setattr(
        video.cv2, "VideoCapture", lambda source: open_film(camera if source == 0 else source)
    )
    clock = iter([100.0, 100.5, 100.9, 100.95])
    monkeypatch.setattr(video.time, "monotonic", lambda: next(clock))
    reader = VideoReader(0)
    assert reader.live
    with complete_video(tmp_path / "out.mp4", reader.rate, reader.live) as film:
        for frame in reader:
            film.write(frame)
    # 0.95 seconds at 10 frames a second; the last frame once although hardly any time has passed.
    assert VideoReader(tmp_path / "out.mp4").announced == 10

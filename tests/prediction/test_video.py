# SPDX-License-Identifier: Apache-2.0
"""Videos in and out, whole or not at all; a camera played by a file."""

import logging

import cv2
import numpy as np
import pytest
from helpers import refused

from dalnet.errors import UsageError
from dalnet.prediction import video
from dalnet.prediction.video import VideoReader, write_video

RED = (200, 0, 0)


def make_video(path, frames, size=(48, 64), rate=12.0):
    with write_video(path, rate) as write:
        for _ in range(frames):
            write(np.full((*size, 3), RED, np.uint8))


def test_there_and_back(tmp_path):
    make_video(tmp_path / "sub" / "x.mp4", 5)
    reader = VideoReader(tmp_path / "sub" / "x.mp4")
    assert (reader.rate, reader.announced, reader.live) == (12.0, 5, False)
    frames = list(reader)
    assert len(frames) == 5
    assert frames[0].shape == (48, 64, 3)
    # RGB, as far as the compression keeps it.
    np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), RED, atol=15)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x.mp4"]


def test_odd_sizes(tmp_path):
    make_video(tmp_path / "x.mp4", 2, size=(49, 65))
    assert next(iter(VideoReader(tmp_path / "x.mp4"))).shape == (48, 64, 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("broken")])
def test_nothing_half_written(tmp_path, error):
    make_video(tmp_path / "x.mp4", 2)
    before = (tmp_path / "x.mp4").read_bytes()
    with pytest.raises(type(error)), write_video(tmp_path / "x.mp4", 12.0) as write:
        write(np.zeros((48, 64, 3), np.uint8))
        raise error
    assert (tmp_path / "x.mp4").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    with (
        refused("x.mp4"),
        write_video(tmp_path / "x.mp4", 12.0) as write,
    ):
        write(np.zeros((48, 64, 3), np.uint8))
        # This frame never reaches the disk.
        monkeypatch.setattr(video.cv2, "cvtColor", lambda frame, code: frame[:0])
        write(np.zeros((48, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_video(tmp_path):
    with refused("x.mp4", "1 x 1 pixels"):
        make_video(tmp_path / "x.mp4", 1, size=(1, 1))
    with refused("x.mp4"):
        make_video(tmp_path / "x.mp4", 0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.mp4").write_bytes(b"no video")
    for source in (tmp_path / "x.mp4", tmp_path / "gone.mp4", 99):
        with refused(source):
            VideoReader(source)


class Truncated:
    """A capture that announces more frames than it has."""

    def __init__(self, capture, frames):
        self.capture, self.frames = capture, frames

    def __getattr__(self, name):
        return getattr(self.capture, name)

    def read(self):
        self.frames -= 1
        return self.capture.read() if self.frames >= 0 else (False, None)


def test_a_video_that_breaks_off(tmp_path, monkeypatch, caplog):
    make_video(tmp_path / "x.mp4", 4)
    capture = cv2.VideoCapture
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda source: Truncated(capture(source), 3))
    with caplog.at_level(logging.WARNING):
        assert len(list(VideoReader(tmp_path / "x.mp4"))) == 3
    assert "3 of 4 frames" in caplog.text
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda source: Truncated(capture(source), 0))
    with refused("x.mp4"):
        list(VideoReader(tmp_path / "x.mp4"))


def test_a_recording_lasts_as_long_as_its_making(tmp_path, monkeypatch):
    make_video(tmp_path / "in.mp4", 3, rate=10.0)
    capture, camera = cv2.VideoCapture, str(tmp_path / "in.mp4")
    monkeypatch.setattr(
        video.cv2, "VideoCapture", lambda source: capture(camera if source == 0 else source)
    )
    clock = iter([100.0, 100.5, 100.9, 100.95])
    monkeypatch.setattr(video.time, "monotonic", lambda: next(clock))
    reader = VideoReader(0)
    assert reader.live
    with write_video(tmp_path / "out.mp4", reader.rate, reader.live) as write:
        for frame in reader:
            write(frame)
    # 0.95 seconds at 10 frames a second; the last frame once although hardly any time has passed.
    assert VideoReader(tmp_path / "out.mp4").announced == 10

# SPDX-License-Identifier: Apache-2.0
"""Videos in and out, whole or not at all; a camera played by a file."""

import logging
import os
import shutil
import struct

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


class Capture:
    """A capture of which some properties are others."""

    def __init__(self, capture, **properties):
        self._capture = capture
        self._properties = {getattr(cv2, f"CAP_PROP_{k}"): v for k, v in properties.items()}

    def __getattr__(self, name):
        return getattr(self._capture, name)

    def get(self, prop):
        value = self._properties.get(prop)
        return self._capture.get(prop) if value is None else value() if callable(value) else value


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 90000, 1e-9])
def test_rates_that_cannot_be_are_replaced_and_named(tmp_path, monkeypatch, caplog, rate):
    make_video(tmp_path / "x.mp4", 3)
    capture = cv2.VideoCapture
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda s: Capture(capture(s), FPS=rate))
    assert VideoReader(tmp_path / "x.mp4").rate == 25
    assert "x.mp4" in caplog.text and "25 frames a second" in caplog.text


@pytest.mark.parametrize("rate", [29.97, 23.976, 7.123, 0.5, 240, 1000])
def test_odd_rates_are_kept(tmp_path, rate, caplog):
    make_video(tmp_path / "x.mp4", 8, rate=rate)
    reader = VideoReader(tmp_path / "x.mp4")
    assert reader.rate == pytest.approx(rate, rel=1e-3)
    assert len(list(reader)) == 8
    assert not caplog.text


def test_a_rate_that_varies_is_named(tmp_path, monkeypatch, caplog):
    make_video(tmp_path / "x.mp4", 4, rate=10)
    times = iter([50, 150, 900, 950])
    capture, change = cv2.VideoCapture, {"POS_MSEC": lambda: next(times)}
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda s: Capture(capture(s), **change))
    assert len(list(VideoReader(tmp_path / "x.mp4"))) == 4
    assert "x.mp4" in caplog.text and "10 frames a second throughout" in caplog.text


def test_frames_of_a_turned_video_are_upright(tmp_path):
    make_video(tmp_path / "x.mp4", 2, size=(48, 64))
    content = (tmp_path / "x.mp4").read_bytes()
    # The matrix in the track's header: behind its type 40 bytes, nine numbers of 4.
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    (tmp_path / "x.mp4").write_bytes(content[:start] + turned + content[start + 36 :])
    assert next(iter(VideoReader(tmp_path / "x.mp4"))).shape == (64, 48, 3)


def test_damaged_videos_are_named(tmp_path):
    make_video(tmp_path / "x.mp4", 4)
    content = (tmp_path / "x.mp4").read_bytes()
    for size in (0, 100, len(content) // 2):
        (tmp_path / "x.mp4").write_bytes(content[:size])
        with refused("x.mp4"):
            list(VideoReader(tmp_path / "x.mp4"))


def test_names_that_opencv_crashes_at_are_refused(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.mp4")
    with refused(odd):
        make_video(odd, 1)
    assert not list(tmp_path.iterdir())
    make_video(tmp_path / "50%d [1].mp4", 2)
    shutil.copy(tmp_path / "50%d [1].mp4", odd)
    with refused(odd):
        VideoReader(odd)
    assert len(list(VideoReader(tmp_path / "50%d [1].mp4"))) == 2

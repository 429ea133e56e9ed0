# SPDX-License-Identifier: Apache-2.0
"""Masks rendered by several processes."""

import os
import signal
import time

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.data.prepare.masks import MaskSource, write_masks


@pytest.mark.parametrize("workers", [0, -2])
def test_masks_without_workers_are_refused(workers):
    with refused("workers"):
        write_masks({}, interrupts_ignored, workers)


@pytest.mark.parametrize(
    ("function", "command"),
    [
        ("prepare_coco", "coco"),
        ("prepare_sbd", "voc --input sbd"),
        ("convert_image_labels", "labels --input a --output b --classes voc"),
    ],
)
def test_interrupted_commands_print_no_traceback(last_words, monkeypatch, function, command):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dalnet.cli.prepare.{function}", interrupt)
    assert last_words(*command.split()) == (130, "error: interrupted")


def interrupts_ignored(_):
    """A mask that says whether Ctrl-C leaves the process that makes it alone."""
    return np.full((1, 1), signal.getsignal(signal.SIGINT) is signal.SIG_IGN, np.uint8)


def test_workers_leave_an_interrupt_to_their_parent(tmp_path):
    write_masks({tmp_path / "a.png": MaskSource(None, 0.0)}, interrupts_ignored, workers=1)
    assert np.array(Image.open(tmp_path / "a.png")).item() == 1


def killed_once(source):
    """A mask of which the process is killed where its file of the first try is not there yet."""
    value, first_try = source
    if value == 20 and not first_try.exists():
        first_try.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((2, 2), value, np.uint8)


@pytest.mark.faults("processes that end or hang")
def test_a_killed_worker_ends_in_a_sentence_and_the_command_goes_on(tmp_path):
    first_try = tmp_path / "first try"
    sources = {
        tmp_path / "masks" / f"{value:02d}.png": MaskSource((value, first_try), 0.0)
        for value in range(40)
    }
    with refused("workers", "again"):
        write_masks(sources, killed_once, workers=1)
    finished = len(list((tmp_path / "masks").glob("[0-9]*.png")))
    assert 0 < finished < 40
    summary = write_masks(sources, killed_once, workers=1)
    assert (summary.written, summary.kept) == (40 - finished, finished)
    assert np.array(Image.open(tmp_path / "masks" / "20.png")).item(0) == 20


def test_a_source_that_is_newer_than_its_mask_is_drawn_again(tmp_path):
    path = tmp_path / "a.png"
    for changed_at, written in ((0.0, 1), (0.0, 0), (time.time() + 9, 1)):
        summary = write_masks({path: MaskSource(None, changed_at)}, interrupts_ignored, 1)
        assert summary.written == written

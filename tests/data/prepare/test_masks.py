# SPDX-License-Identifier: Apache-2.0
"""Masks rendered by several processes."""

import signal

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.data.prepare.masks import write_masks


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
    write_masks({tmp_path / "a.png": None}, interrupts_ignored, workers=1)
    assert np.array(Image.open(tmp_path / "a.png")).item() == 1

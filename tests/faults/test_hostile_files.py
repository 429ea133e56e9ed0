# SPDX-License-Identifier: Apache-2.0
"""Files that mean harm are answered by one sentence: no traceback, no hang, no file elsewhere."""

import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from dalnet.errors import UsageError

from .case import HARMLESS, REFUSED
from .hostile_documents import DOCUMENTS
from .hostile_images import IMAGES
from .hostile_shards import SHARDS
from .hostile_weights import WEIGHTS

CASES = [*IMAGES, *DOCUMENTS, *WEIGHTS, *SHARDS]
MAX_SECONDS = 10  # of the processor; a file that is waited for takes none
MAX_WAIT = 120
MAX_MEMORY = 2 << 30  # bytes


class TooLong(BaseException):
    """Not an Exception, which readers of files turn into a sentence."""


@contextmanager
def within_limits():
    """Interrupt what takes too long, and refuse what has taken too much memory."""

    def interrupt(number, frame):
        raise TooLong

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, interrupt)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS, 5)
    signal.setitimer(signal.ITIMER_REAL, MAX_WAIT, 5)
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = memory("VmRSS")
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert memory("VmHWM") - before < MAX_MEMORY


def memory(name):
    """Return a number of bytes that the system knows about this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def test_there_are_as_many_as_is_said():
    assert len({case.name for case in CASES}) == len(CASES) >= 300


@pytest.mark.faults("hostile files")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_file_is_answered_by_a_sentence(case, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "given"
    folder.mkdir()
    path = case.make(folder)
    before = {*tmp_path.rglob("*")}
    answer, caught = None, None
    with caplog.at_level("WARNING"), within_limits():
        try:
            answer = case.read(path)
        except UsageError as error:
            caught = error
    assert {*tmp_path.rglob("*")} - before <= {*(tmp_path / "output").rglob("*")}
    if case.expect == REFUSED:
        assert caught is not None, f"it was read: {answer!r:.200}"
        assert caught.where and len(str(caught)) < 2500 and str(caught).count("\n") == 0
    else:
        assert caught is None, str(caught)
        assert case.expect == HARMLESS or caplog.records

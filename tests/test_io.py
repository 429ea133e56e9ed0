# SPDX-License-Identifier: Apache-2.0
"""Files that are read in lines, and files that are written whole or not at all."""

import os

import pytest
from helpers import refused

from dalnet.io import atomic_write, read_lines, read_text, write_text


def test_lines_are_those_that_say_something(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n k\u00e4tzchen \n\t\nb c\n", encoding="utf-8")
    assert read_lines(path, "mend it") == ["k\u00e4tzchen", "b c"]
    for content in (b"\n \n", b"k\xe4tzchen"):
        path.write_bytes(content)
        with refused(path, "mend it"):
            read_lines(path, "mend it")
    with refused("gone.txt", "mend it"):
        read_lines(tmp_path / "gone.txt", "mend it")


def test_text_is_read_in_the_encodings_that_programs_write(tmp_path):
    path = tmp_path / "text.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("kätzchen\r\n".encode(encoding))
        assert read_text(path) == "kätzchen\r\n"


def test_a_file_that_is_missing_is_called_so(tmp_path):
    with refused(tmp_path / "tags.csv", "there is no such file", "correct the path"):
        read_text(tmp_path / "tags.csv")
    with refused(tmp_path / "tags.csv", "there is no such file", "list the images"):
        read_text(tmp_path / "tags.csv", "list the images")


def test_names_of_any_length_and_encoding_are_written(tmp_path):
    for name in (b"m" * 255, "\u732b".encode() * 85, b"caf\xe9", b"100% {0} [1]"):
        target = tmp_path / os.fsdecode(name)
        with atomic_write(target) as temporary:
            temporary.write_text("whole")
        assert target.read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 4


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    write_text(tmp_path / "list.txt", os.fsdecode(b"caf\xe9 \xc3\xa9"))
    assert (tmp_path / "list.txt").read_bytes() == b"caf\xe9 \xc3\xa9"


def test_failed_writing_leaves_nothing(tmp_path):
    target = tmp_path / "folder" / "file"
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    (tmp_path / "blocked").write_text("a file, not a folder")
    with (
        refused(tmp_path / "blocked" / "file"),
        atomic_write(tmp_path / "blocked" / "file"),
    ):
        pass

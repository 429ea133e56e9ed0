# SPDX-License-Identifier: Apache-2.0
"""What tests of data on disk share: a folder that may not be read."""

import errno
import io
import os
from pathlib import Path

import pytest


@pytest.fixture
def lock(monkeypatch):
    """``lock(folder)`` takes the right to look into a folder, from a superuser too."""
    asked = {(os, "listdir"): False, (os, "scandir"): False, (os, "stat"): True, (io, "open"): True}

    def lock_folder(folder):
        def locked(call, inside_only):
            def refuse_or_call(path=".", *args, **kwargs):
                if isinstance(path, str | os.PathLike):
                    target = Path(path)
                    if folder in target.parents or (folder == target and not inside_only):
                        raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return call(path, *args, **kwargs)

            return refuse_or_call

        for (module, name), inside_only in asked.items():
            monkeypatch.setattr(module, name, locked(getattr(module, name), inside_only))

    return lock_folder

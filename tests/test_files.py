# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all."""

import pytest

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent


def test_failed_writing_leaves_nothing(tmp_path):
    target = tmp_path / "folder" / "file"
    with pytest.raises(RuntimeError), complete_or_absent(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    (tmp_path / "blocked").write_text("a file, not a folder")
    with (
        pytest.raises(UsageError, match="cannot write"),
        complete_or_absent(tmp_path / "blocked" / "file"),
    ):
        pass

# SPDX-License-Identifier: Apache-2.0
"""Published files are read without running anything that they hold beside the weights."""

from pathlib import Path

import pytest
import torch

from dalnet.checkpoint.convert import read_published

TRACE = "trace"  # a file in the working folder


class Other:
    """An object of the publisher's own code."""


class Eager:
    """Its pickle asks the reader to write a file."""

    def __reduce__(self):
        return (eval, (f"open({TRACE!r}, 'w')",))


needs_stubs = pytest.mark.skipif(
    not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"),
    reason="PyTorch before 2.6 refuses such files",
)


@needs_stubs
@pytest.mark.parametrize("kind", [Other, Eager])
def test_what_is_beside_the_weights_is_left_out_and_not_run(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "published.pth"
    torch.save({"model": {"weight": torch.ones(2)}, "config": [kind()]}, path)
    state = read_published(str(path))
    assert list(state) == ["weight"] and torch.equal(state["weight"], torch.ones(2))
    assert not Path(TRACE).exists()

# SPDX-License-Identifier: Apache-2.0
"""Host waits and profiles of a step."""

import warnings

import torch
from torch import nn

from benchmarks.gpu.trace import HostWaits, profile_step
from benchmarks.plain.par import published_par

SAID = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:1.)"


def test_waits_are_counted_by_the_line_of_this_repository_that_led_there(monkeypatch):
    def wait(*args, **kwargs):
        warnings.warn(SAID, stacklevel=1)
        return torch.zeros(1, 2, 3, 3)

    monkeypatch.setattr(torch.nn.functional, "interpolate", wait)
    with HostWaits() as waits:
        for _ in range(2):
            published_par(torch.zeros(1, 3, 3, 3), torch.zeros(1, 2, 3, 3), 1, (1,))
        warnings.warn("something else", stacklevel=1)
    # This file's lines are of the repository too, but further out than those of benchmarks/plain.
    ((line, count),) = waits.lines.items()
    assert line.startswith("tests/benchmarks/gpu/test_trace.py:") and count == 2


def test_waits_leave_the_warnings_as_they_were():
    before = warnings.showwarning, list(warnings.filters)
    with HostWaits():
        pass
    assert (warnings.showwarning, warnings.filters) == before


def test_a_profile_tells_the_parts_and_leaves_no_hook():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    model = Model()

    def step():
        with torch.no_grad():
            model.encoder(torch.zeros(3, 4))
        model.head(model.encoder(torch.zeros(3, 4))).sum().backward()

    row = profile_step(step, model, "cpu")
    assert {"encoder", "encoder, no gradient", "head", "backward pass"} <= set(row["parts_ms"])
    assert "head, no gradient" not in row["parts_ms"]
    assert row["parts_ms"]["backward pass"] <= 1e3 * row["seconds"]
    assert "aten::addmm" in [name for name, _, _ in row["operators"]]
    assert row["calls_that_wait"] == 0 and row["kernels_ms"] is None
    assert not model.encoder._forward_hooks and not model.encoder._forward_pre_hooks

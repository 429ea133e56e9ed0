# SPDX-License-Identifier: Apache-2.0
"""The training step: what is counted, and that every form of it runs."""

import time
from types import SimpleNamespace

import pytest
import torch
from timm.layers import Attention

from benchmarks.gpu import step as module
from benchmarks.gpu.part import Setting
from benchmarks.gpu.step import Steps, measurements


@pytest.fixture
def setting(tmp_path):
    return Setting("cpu", True, tmp_path, time.time() + 600)


def test_products_of_a_known_layer(setting, monkeypatch):
    """Of fused attention too, whose operator on a CPU is not counted."""
    batch, tokens, width = 2, 5, 8
    layer = Attention(width, num_heads=2)
    inputs = torch.randn(batch, tokens, width)
    step = lambda: layer(inputs).sum().backward()  # noqa: E731
    steps = Steps(setting)
    monkeypatch.setattr(steps, "_step", lambda *_: (step, SimpleNamespace(backbone=layer)))
    row = steps.count_products(batch)
    linear = 2 * tokens * width * (3 * width + width)
    attention = 2 * 2 * tokens * tokens * width
    # Backward: twice the forward pass, but for the gradient of the first layer's inputs.
    expected = 3 * (linear + attention) - 2 * tokens * width * 3 * width
    assert row["tflop_per_image"] * 1e12 == pytest.approx(expected)


def test_utilization_is_of_the_measured_rate(setting, monkeypatch):
    steps = Steps(setting)
    steps.operations, steps.bf16_rate = 3e12, 6e13
    monkeypatch.setattr(steps, "_step", lambda *_: (lambda: None, None))
    monkeypatch.setattr(module, "seconds", lambda call, least: 0.5)
    row = steps.measure(None, 4, torch.bfloat16)
    assert row["images_per_second"] == 8
    assert row["utilization"] == pytest.approx(4 * 3e12 / 0.5 / 6e13)
    assert "first_steps_seconds" not in row


def test_every_measurement_runs(setting, monkeypatch):
    monkeypatch.setattr(module, "seconds", lambda call, least=0: [call()] and 0.5)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # put back at the end
    with torch.compiler.set_stance("force_eager"):  # compiling takes minutes
        rows = {m.name: m.run() for m in measurements(setting)}
    assert rows["host waits"]["waits"] == 0
    assert {"forward pass", "AdamW", "backbone"} <= set(rows["profile, batch 1"]["parts_ms"])
    assert "first_steps_seconds" in rows["bf16, CUDA graphs, batch 2"]
    timed = [name for name in rows if "batch" in name and "profile" not in name]
    assert len(timed) == 10 and all(rows[name]["utilization"] > 0 for name in timed)

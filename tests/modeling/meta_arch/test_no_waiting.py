# SPDX-License-Identifier: Apache-2.0
"""A training step on a GPU never waits for a value: shown with fake CUDA tensors, without a GPU.

Whatever reads a value back (``.item()``, ``.tolist()``, boolean indexing, ``unique``) raises on a
fake tensor, which has none.
"""

import pytest
import torch
from helpers import forward_on_fake_tensors, make_item
from torch._subclasses.fake_tensor import DataDependentOutputException

from dalnet.modeling import DALNet
from dalnet.modeling.heads.large_fov import LargeFOVHead


@pytest.fixture
def fake_forward(tiny_cfg, monkeypatch):
    """``fake_forward(method, device, dtype)`` -> losses and model, all of them fake tensors."""

    def forward(method, device, dtype):
        tiny_cfg.MODEL.DALNET.REG.METHOD = method
        items = [make_item(0), make_item(1, (2,))]
        return forward_on_fake_tensors(tiny_cfg, items, device, dtype, monkeypatch)

    return forward


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_the_forward_pass_reads_nothing_back(fake_forward, method):
    losses, _ = fake_forward(method, "cuda", torch.float32)
    assert len(losses) == 7
    for loss in losses.values():
        assert loss.is_cuda
        assert loss.dtype == torch.float32


# Autograd's engine and autocast ask for a driver, so on fake CPU tensors. The lattice has a table
# of exact size there, which does read back.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_pass_reads_nothing_back(fake_forward, dtype):
    losses, model = fake_forward("exact", "cpu", dtype)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_reading_back_is_noticed(fake_forward, monkeypatch):
    monkeypatch.setattr(DALNet, "normalize", lambda _, images: images / images.max().item())
    with pytest.raises(DataDependentOutputException):
        fake_forward("exact", "cuda", torch.float32)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_autocast_takes_the_configured_dtype(fake_forward, tiny_cfg, monkeypatch, name):
    tiny_cfg.SOLVER.AMP.DTYPE = name
    seen = []
    head = LargeFOVHead.forward

    def forward(self, tokens):
        logits = head(self, tokens)
        seen.append(logits.dtype)
        return logits

    monkeypatch.setattr(LargeFOVHead, "forward", forward)
    other = {"bfloat16": torch.float16, "float16": torch.bfloat16}[name]
    losses, _ = fake_forward("exact", "cpu", other)
    assert seen == [getattr(torch, name)]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}

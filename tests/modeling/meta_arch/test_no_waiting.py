# SPDX-License-Identifier: Apache-2.0
"""A training step on a GPU never waits for a value: shown with fake CUDA tensors, without a GPU.

Whatever reads a value back (``.item()``, ``.tolist()``, boolean indexing, ``unique``) raises on a
fake tensor, which has none.
"""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import TOCO, make_item
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dalnet.modeling import DALNet
from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.heads.large_fov import LargeFOVHead


def fake(value, device):
    if value is None or isinstance(value, torch.Tensor):
        return None if value is None else torch.empty_like(value, device=device)
    fields = {f.name: fake(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    return type(value)(**fields)


def fake_parameters(model, device):
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(fake(parameter, device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake(buffer, device))


@pytest.fixture
def fake_forward(tiny_cfg, monkeypatch):
    """``fake_forward(method, device, dtype)`` -> losses and model, all of them fake tensors."""
    items = [make_item(0), make_item(1, (2,))]
    for item in items:
        item["local_source"] = item["image"]
    batch = TrainingBatch.collate(items, torch.device("cpu"))

    def forward(method, device, dtype):
        tiny_cfg.MODEL.DALNET.REG.METHOD = method
        model = build_model(tiny_cfg).train()
        with FakeTensorMode(allow_non_fake_inputs=True), EventStorage(5):
            fake_parameters(model, device)
            on_device = fake(batch, device)
            monkeypatch.setattr(TrainingBatch, "collate", lambda *_: on_device)
            with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                return model([]), model

    return forward


@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_the_forward_pass_reads_nothing_back(fake_forward, method):
    losses, _ = fake_forward(method, "cuda", torch.float32)
    assert len(losses) == 7
    for loss in losses.values():
        assert loss.is_cuda
        assert loss.dtype == torch.float32


def test_the_forward_pass_of_toco_reads_nothing_back(fake_forward, tiny_cfg):
    tiny_cfg.merge_from_list(list(TOCO))
    losses, _ = fake_forward("exact", "cuda", torch.float32)
    assert losses["loss_ctc"].is_cuda


# Autograd's engine and autocast ask for a driver, so on fake CPU tensors. The lattice has a table
# of exact size there, which does read back.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_pass_reads_nothing_back(fake_forward, dtype):
    losses, model = fake_forward("exact", "cpu", dtype)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_reading_back_is_noticed(fake_forward, monkeypatch):
    monkeypatch.setattr(DALNet, "_normalize", lambda _, pixels: pixels / pixels.max().item())
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

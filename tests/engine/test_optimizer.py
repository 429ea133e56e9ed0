# SPDX-License-Identifier: Apache-2.0
"""Which parameter learns how fast, and the schedule."""

import pytest
import torch
from detectron2.modeling import build_model

from dalnet.engine import Trainer
from dalnet.engine.optimizer import build_optimizer


def test_rates_and_decay_per_parameter(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.5])
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(settings) == {id(p) for p in learning.values()}
    for name, parameter in learning.items():
        rate, decay = settings[id(parameter)]
        assert rate == pytest.approx(6e-5 if name.startswith("backbone.") else 6e-4), name
        if name.endswith("bias"):
            assert decay == 0.5, name
        else:
            assert decay == (0.0 if ".norm" in name else 0.01), name


def test_schedule_warms_up_and_decays(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10])
    optimizer = build_optimizer(tiny_cfg, build_model(tiny_cfg))
    scheduler = Trainer.build_lr_scheduler(tiny_cfg, optimizer)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    for iteration in range(100):
        warm = min(1.0, 1 / 60 + (1 - 1 / 60) * iteration / 10)
        expected = 6e-5 * warm * (1 - iteration / 100) ** 0.9
        assert rates[iteration] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "kind", "setting"),
    [
        ("AdamW", torch.optim.AdamW, ("betas", (0.8, 0.9))),
        ("SGD", torch.optim.SGD, ("momentum", 0.7)),
    ],
)
def test_the_optimizer_is_chosen_by_name(tiny_cfg, name, kind, setting):
    options = ("SOLVER.OPTIMIZER", name, "SOLVER.BETAS", (0.8, 0.9), "SOLVER.MOMENTUM", 0.7)
    tiny_cfg.merge_from_list(list(options))
    optimizer = build_optimizer(tiny_cfg, build_model(tiny_cfg))
    assert type(optimizer).__name__.endswith(kind.__name__)
    key, value = setting
    assert all(group[key] == value for group in optimizer.param_groups)

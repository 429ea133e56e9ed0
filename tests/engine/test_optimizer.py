# SPDX-License-Identifier: Apache-2.0
"""Which parameter learns how fast, and the schedule."""

import pytest
import torch
from detectron2.modeling import build_model

from dalnet.engine import Trainer
from dalnet.engine import optimizer as module
from dalnet.engine.optimizer import build_lr_scheduler, build_optimizer


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


def test_vectors_without_decay(tiny_cfg):
    tiny_cfg.SOLVER.DECAY_VECTORS = False
    model = build_model(tiny_cfg)
    model.scale = torch.nn.Module()
    model.scale.value = torch.nn.Parameter(torch.tensor(1.0))
    decays = {
        group["params"][0].ndim: group["weight_decay"]
        for group in build_optimizer(tiny_cfg, model).param_groups
    }
    assert decays[1] == 0
    assert decays[0] == decays[2] == 0.01


def test_vectors_without_decay_where_detectron2_joins_groups(tiny_cfg, monkeypatch):
    original = module.get_default_optimizer_params

    def joined(*args, **kwargs):
        groups = original(*args, **kwargs)
        return [{**groups[0], "params": [p for group in groups for p in group["params"]]}]

    monkeypatch.setattr(module, "get_default_optimizer_params", joined)
    test_vectors_without_decay(tiny_cfg)


class TwoWeights(torch.nn.Module):
    """A model of two parameters, one of which may be withheld."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1, bias=False)
        self.head = torch.nn.Linear(1, 1, bias=False)
        self.withheld = ()
        for parameter in self.parameters():
            torch.nn.init.ones_(parameter)

    def withheld_parameters(self):
        return self.withheld


def one_step(cfg, gradients, withheld=False):
    model = TwoWeights()
    optimizer = build_optimizer(cfg, model)
    if withheld:
        model.withheld = tuple(model.backbone.parameters())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return model, optimizer


def test_the_norm_of_all_gradients_is_clipped(tiny_cfg):
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0)
    rates = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.1, "SOLVER.HEAD_LR_MULTIPLIER", 1.0)
    tiny_cfg.merge_from_list([*clip, *rates, "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0])
    for key in ("NORM", "BIAS"):
        tiny_cfg.SOLVER[f"WEIGHT_DECAY_{key}"] = 0.0
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    model, _ = one_step(tiny_cfg, (3.0, 4.0))  # of length 5
    assert [1 - p.item() for p in model.parameters()] == pytest.approx([0.06, 0.08])
    tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    model, _ = one_step(tiny_cfg, (3.0, 4.0))
    assert [1 - p.item() for p in model.parameters()] == pytest.approx([0.1, 0.1])


def test_withheld_parameters_stay_and_have_no_moments(tiny_cfg):
    model, optimizer = one_step(tiny_cfg, (0.0, 2.0), withheld=True)
    backbone, head = (p for p in model.parameters())
    assert backbone.item() == 1
    assert head.item() < 1
    assert backbone not in optimizer.state


def test_a_schedule_that_falls_after_its_warm_up(tiny_cfg):
    # CoDe's rates at 0, 7,500, 15,000, 32,500 and 50,000 of 50,000 steps.
    options = ("SOLVER.MAX_ITER", 50000, "SOLVER.WARMUP_ITERS", 15000, "SOLVER.BASE_LR", 5e-6)
    tiny_cfg.merge_from_list(
        [*options, "SOLVER.WARMUP_FACTOR", 1e-4, "SOLVER.MIN_LR_FACTOR", 0.125]
    )
    tiny_cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "WarmupThenCosineLR"])
    optimizer = build_optimizer(tiny_cfg, TwoWeights())
    scheduler = build_lr_scheduler(tiny_cfg, optimizer)
    expected = {0: 5e-10, 1: 8.333e-10, 7500: 2.50025e-6, 14999: 4.9996667e-6, 15000: 5e-6,
                30000: 3.29926454e-6, 32500: 2.8125e-6, 50000: 6.25e-7}  # fmt: skip
    for iteration, rate in expected.items():
        scheduler.last_epoch = iteration
        assert scheduler.get_lr()[0] == pytest.approx(rate, rel=1e-6), iteration


def test_a_run_shorter_than_its_warm_up(tiny_cfg):
    tiny_cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "SOLVER.WARMUP_ITERS", 4])
    tiny_cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "WarmupThenCosineLR"])
    tiny_cfg.SOLVER.WARMUP_FACTOR = 0.2
    scheduler = build_lr_scheduler(tiny_cfg, build_optimizer(tiny_cfg, TwoWeights()))
    rates = []
    for iteration in range(3):
        scheduler.last_epoch = iteration
        rates.append(scheduler.get_lr()[0] / 6e-5)
    assert rates == pytest.approx([0.2, 0.4, 0.6])

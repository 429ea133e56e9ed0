# SPDX-License-Identifier: Apache-2.0
"""A step from several parts of a batch is the mean of their gradients."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers import refused
from torch import nn

from dalnet.engine.step import StepTrainer


class Model(nn.Module):
    """Losses that are means over the images given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        values = torch.stack([item["x"] for item in images])
        return {"loss_a": (values @ self.weight).square().mean(), "loss_b": self.weight.sum()}


def step(parts, counts_parts=True):
    generator = torch.Generator().manual_seed(0)
    images = [{"x": torch.randn(2, generator=generator)} for _ in range(6)]
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [images], optimizer, parts, counts_parts)
    with EventStorage() as storage:
        trainer.iter = 0
        trainer.run_step()
        losses = {key: value[0] for key, value in storage.latest().items() if "loss" in key}
    return model, losses


@pytest.mark.parametrize("counts_parts", [True, False])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_give_the_step_of_the_whole(parts, counts_parts):
    (whole, expected), (model, losses) = step(1), step(parts, counts_parts)
    assert model.sizes == [6 // parts] * parts * (2 if counts_parts else 1)
    torch.testing.assert_close(model.weight, whole.weight)
    assert losses == pytest.approx(expected)


def test_the_loss_scaling_is_part_of_the_state():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [], optimizer)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.iter = 0
    state = trainer.state_dict()
    assert state["grad_scaler"]["scale"] == 8.0
    other = StepTrainer(model, [], optimizer)
    other.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    other.load_state_dict(state)
    assert other.scaler.state_dict()["scale"] == 8.0
    del state["grad_scaler"]
    other.load_state_dict(state)


class Broken(Model):
    """Its losses, or their gradients, are not finite for some of its batches."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = iter(kinds)

    def forward(self, images):
        losses = super().forward(images)
        kind = next(self.kinds)
        if kind == "loss":
            losses["loss_b"] = losses["loss_b"] / 0
        elif kind == "gradient":
            losses["loss_b"] = (self.weight * 0).abs().sqrt().sum()
        return losses


def run_broken(kinds, max_nonfinite):
    batches = [[{"x": torch.ones(2), "image_id": f"image{number}"}] for number in range(len(kinds))]
    model = Broken(kinds)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, batches, optimizer, max_nonfinite=max_nonfinite)
    weights = []
    with EventStorage():
        for trainer.iter in range(len(kinds)):
            trainer.run_step()
            weights.append(model.weight.tolist())
    return weights


@pytest.mark.faults("losses that are not finite")
@pytest.mark.parametrize(("kind", "word"), [("loss", "loss_b"), ("gradient", "gradient of weight")])
def test_a_step_that_is_not_finite_is_left_out_and_named(caplog, kind, word):
    kinds = ["", kind, kind, ""]
    first, second, third, last = run_broken(kinds, max_nonfinite=2)
    assert first == second == third != last
    assert word in caplog.text and "iteration 2" in caplog.text and "image2" in caplog.text
    assert "loss_a" not in caplog.text


@pytest.mark.faults("losses that are not finite")
def test_gradients_that_no_scale_makes_finite_stop_the_training():
    model = Model()
    model.weight.register_hook(lambda gradient: gradient * torch.nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, [[{"x": torch.ones(2)}]] * 9, optimizer)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with EventStorage(), refused("SOLVER.AMP.DTYPE", "iteration 2"):
        for trainer.iter in range(9):
            trainer.run_step()
    assert torch.equal(model.weight, torch.tensor([1.0, -2.0]))


def test_too_many_in_a_row_stop_the_training():
    run_broken(["loss", "", "loss", "", "loss"], max_nonfinite=1)
    with refused("SOLVER.MAX_NONFINITE_STEPS", "iteration 3", "image3", "loss_b"):
        run_broken(["loss", "", "loss", "loss"], max_nonfinite=1)

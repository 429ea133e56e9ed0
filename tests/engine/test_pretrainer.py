# SPDX-License-Identifier: Apache-2.0
"""What all pre-trainings share: where they write, and what a resumed one accepts."""

import itertools
import json

import pytest
import torch
from fvcore.common.param_scheduler import LinearParamScheduler
from safetensors.torch import load_file
from torch import nn

from dalnet.engine import pretrainer
from dalnet.engine.pretrainer import (
    Pretrainer,
    PretrainingPlan,
    open_log,
    run_pretraining,
    save_encoder,
)
from dalnet.errors import UsageError


class Numbers:
    """Batch i is the number i."""

    first = 0

    def __iter__(self):
        for number in itertools.count(self.first):
            yield torch.tensor([float(number)])


class Line(nn.Linear):
    """One weight; its loss is its output."""

    def __init__(self):
        super().__init__(1, 1, bias=False)
        nn.init.ones_(self.weight)

    def forward(self, batch):
        return super().forward(batch).sum()


def trained(plan, iterations, **identity):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Pretrainer(model, Numbers(), optimizer, {"seed": 1, **identity})
    run_pretraining(trainer, LinearParamScheduler(1.0, 0.0), iterations, plan)
    return trainer


def test_each_iteration_has_its_batch_and_its_rate(tmp_path):
    plan = PretrainingPlan(tmp_path / "line.safetensors", log_every=1)
    trainer = trained(plan, 4)
    # The gradient is the batch: 0, 1, 2, 3 at the rates 1, 3/4, 2/4, 1/4.
    assert trainer.model.weight.item() == pytest.approx(1 - 3 / 4 - 2 * 2 / 4 - 3 / 4)
    lines = (tmp_path / "line" / "metrics.json").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [m["lr"] for m in metrics if "lr" in m] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])


def test_a_finished_run_is_not_repeated_and_another_is_refused(tmp_path):
    plan = PretrainingPlan(tmp_path / "line.safetensors", resume=True)
    first = trained(plan, 3)
    again = trained(plan, 3)
    assert again.start_iter == 3 and again.loss == first.loss
    assert again.model.weight.item() == first.model.weight.item() != 1
    with pytest.raises(UsageError, match="a run with seed 1: repeat these, or leave out --resume"):
        trained(plan, 3, seed=2)


def test_plan_refuses_the_impossible(tmp_path):
    with pytest.raises(UsageError, match="--save-every is 0"):
        PretrainingPlan(tmp_path / "line.safetensors", save_every=0)
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        PretrainingPlan(tmp_path / "line.pth")


def test_folder_that_cannot_be_is_named(tmp_path, monkeypatch):
    (tmp_path / "line").write_text("in the way")
    with pytest.raises(UsageError, match=r"line cannot be the folder .*\(File exists\)"):
        open_log(tmp_path / "line")
    with pytest.raises(UsageError, match="line cannot be the folder"):
        trained(PretrainingPlan(tmp_path / "line.safetensors"), 1)
    names = []
    monkeypatch.setattr(pretrainer, "setup_logger", lambda folder, name: names.append(name))
    open_log(tmp_path / "new" / "log")
    assert (tmp_path / "new" / "log").is_dir() and names == ["dalnet", "detectron2"]


def test_encoder_is_saved_whole(tmp_path):
    model = Line()
    path = tmp_path / "new" / "line.safetensors"
    save_encoder(model, path, torch.float16)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    torch.testing.assert_close(load_file(path)["weight"], model.weight.detach().half())

# SPDX-License-Identifier: Apache-2.0
"""Losses of two processes are those of one that has both parts of the batch."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from helpers import in_two_processes

from clims.affinity import affinities, pair_losses
from clims.config import add_clims_config
from clims.criterion import CLIMSCriterion
from dalnet.modeling.batch import TrainingBatch
from dalnet.modeling.losses import image_classification

PAIRS = 5  # of an image and a class; the first process has one, the other four
PARTS = slice(0, 1), slice(1, PAIRS)
WHOLE = slice(0, PAIRS)


def make_criterion(across):
    cfg = CfgNode({"MODEL": {}, "SOLVER": {"GLOBAL_LOSS_STATISTICS": across}})
    add_clims_config(cfg)
    return CLIMSCriterion(cfg)


def compute(part, across):
    """Return the losses that divide by a number of pairs, and their gradients."""
    generator = torch.Generator().manual_seed(0)

    def rows(number):
        values = torch.rand(number, 6, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(values, dim=1)

    objects, backgrounds, texts, phrases = (rows(n) for n in (PAIRS, PAIRS, PAIRS, 3))
    objects, backgrounds = (x[part].clone().requires_grad_() for x in (objects, backgrounds))
    targets = {"texts": texts[part], "phrases": phrases}
    outputs = {"objects": objects, "backgrounds": backgrounds, "maps": torch.zeros(1, 1, 1, 1)}
    found = make_criterion(across)(outputs, targets)
    edges = torch.rand(2, 12, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 12, 12), generator=generator)
    labels[0, :10] = 255
    images = slice(int(part == PARTS[1]), 1 if part == PARTS[0] else 2)
    edges, labels = edges[images].clone().requires_grad_(), labels[images]
    pairs = pair_losses(affinities(edges, 4), labels, 4, 3, across)
    losses = {"otm": found["loss_otm"], "btm": found["loss_btm"]}
    gradients = torch.autograd.grad(sum(losses.values()), (objects, backgrounds))
    (edge_gradient,) = torch.autograd.grad(pairs, edges)
    values = {name: loss.item() for name, loss in losses.items()} | {"pairs": pairs.item()}
    return values, (*gradients, edge_gradient)


def compute_part(rank):
    return [compute(PARTS[rank], across) for across in (False, True)]


@pytest.mark.slow
def test_two_processes_have_the_losses_and_gradients_of_one(tmp_path):
    ranks = in_two_processes(compute_part, tmp_path)
    values, gradients = compute(WHOLE, True)
    for name, value in values.items():
        own, shared = (sum(rank[kind][0][name] for rank in ranks) / 2 for kind in (0, 1))
        assert shared == pytest.approx(value, rel=1e-4), name
        assert own != pytest.approx(value, rel=1e-2), name
    for first, second, whole in zip(ranks[0][1][1], ranks[1][1][1], gradients, strict=True):
        # DistributedDataParallel takes the mean over the processes.
        torch.testing.assert_close(torch.cat([first, second]) / 2, whole, rtol=1e-4, atol=1e-9)


def test_stage_0_counts_as_the_key_says(stage0_cfg, monkeypatch):
    seen = []

    def loss(*arguments, across_processes):
        seen.append(across_processes)
        return image_classification(*arguments)

    monkeypatch.setattr("clims.cam_network.image_classification", loss)
    record = {
        "image": torch.zeros(3, 64, 64, dtype=torch.uint8),
        "image_labels": torch.eye(10)[0],
        "image_box": torch.tensor([0, 64, 0, 64]),
    }
    for across in (True, False):
        stage0_cfg.SOLVER.GLOBAL_LOSS_STATISTICS = across
        model = build_model(stage0_cfg).train()
        model.losses(TrainingBatch.collate([record], torch.device("cpu")))
    assert seen == [True, False]

# SPDX-License-Identifier: Apache-2.0
"""The order of the images: where it begins, and how often images of rare classes come."""

import math
from itertools import islice

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from helpers import refused

from dalnet.data.samplers import ResumableSampler, build_sampler, repeat_factors

DICTS = [{"image_labels": labels} for labels in ([0], [0], [0, 1], [0, 2], [0], [1], [0], [0, 1])]


def make_cfg(threshold):
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = threshold
    return cfg


@pytest.mark.parametrize("threshold", [0.01, 0.2, 0.5, 1.0])
def test_factors_are_those_of_the_rarest_class(threshold):
    expected = []
    for record in DICTS:
        fractions = [
            sum(label in other["image_labels"] for other in DICTS) / len(DICTS)
            for label in record["image_labels"]
        ]
        expected.append(max(max(1.0, math.sqrt(threshold / f)) for f in fractions))
    torch.testing.assert_close(repeat_factors(DICTS, threshold), torch.tensor(expected))


def test_images_of_rare_classes_come_as_often_as_their_factors_say():
    factors = repeat_factors(DICTS, 1.0)
    seen = torch.tensor([image for _, image in islice(build_sampler(make_cfg(1.0), DICTS), 6000)])
    counts = torch.bincount(seen, minlength=len(DICTS)) / 6000
    torch.testing.assert_close(counts, factors / factors.sum(), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    "order",
    [TrainingSampler(7, seed=3), RepeatFactorTrainingSampler(torch.full((7,), 1.4), seed=3)],
)
def test_the_order_goes_on_anywhere(order):
    sampler = ResumableSampler(order)
    whole = list(islice(sampler, 40))
    for start in (0, 5, 23):
        sampler.start_index = start
        assert list(islice(sampler, 40 - start)) == whole[start:]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_one_order_step_by_step(processes, monkeypatch):
    batch, start = 4, 8
    whole = list(islice(ResumableSampler(TrainingSampler(7, seed=3)), 40))
    assert [number for number, _ in whole] == list(range(40))
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = ResumableSampler(TrainingSampler(7, seed=3))
        sampler.start_index = start
        shares.append(iter(sampler))
    for step in range(start, 40, batch):
        seen = [next(share) for share in shares for _ in range(batch // processes)]
        assert sorted(seen) == whole[step : step + batch]


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_a_threshold_that_repeats_nothing_or_all_is_refused(threshold):
    with refused("DATALOADER.REPEAT_THRESHOLD"):
        build_sampler(make_cfg(threshold), DICTS)

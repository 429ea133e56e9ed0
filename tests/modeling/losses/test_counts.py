# SPDX-License-Identifier: Apache-2.0
"""Losses of two processes are those of one that has both halves of the batch."""

from functools import partial

import pytest
import torch
from helpers import in_two_processes

from dalnet.modeling.losses import (
    balanced_cross_entropy,
    global_implicit_alignment,
    image_classification,
    local_explicit_alignment,
    patch_token_contrast,
)

IMAGES = 4


def make_terms():
    """Each loss as (function of outputs and targets, outputs ``[N, ...]``, targets ``[N, ...]``).

    The halves of the batch differ in what they have: pixels, pairs, views, known labels.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(IMAGES, *shape, generator=generator, dtype=torch.float64)

    texts = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    labels = (random(3) > 0).double()
    label_map = torch.randint(0, 4, (IMAGES, 5, 5), generator=generator)
    label_map[:2] = 255  # one half has next to nothing
    label_map[0, 0, :3] = torch.tensor([0, 1, 1])
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    known = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)

    def alignment(loss, tokens, labels, weight, *mask, **options):
        fixed = {"sample_weight": weight, "labels": labels, **options}
        return loss(tokens, *mask, text_fg=texts[:3], text_bg=texts[3:], **fixed)

    implicit = partial(alignment, global_implicit_alignment)
    explicit = partial(alignment, local_explicit_alignment)
    return {
        "cls": (image_classification, random(3), (labels, known)),
        "gia": (implicit, random(6), (labels, weight)),
        "lea": (explicit, random(8, 6), (labels, weight, random(8) > 0)),
        "ptc": (patch_token_contrast, random(6, 5, 5), (label_map,)),
        "seg": (balanced_cross_entropy, random(4, 5, 5), (label_map,)),
    }


def compute(part, **options):
    """Return values and gradients of all losses for a part of the batch."""
    results = {}
    for name, (loss, outputs, targets) in make_terms().items():
        outputs = outputs[part].requires_grad_()
        value = loss(outputs, *(target[part] for target in targets), **options)
        value.backward()
        results[name] = value.item(), outputs.grad
    return results


def compute_half(rank):
    part = slice(2 * rank, 2 * rank + 2)
    return compute(part), compute(part, across_processes=True)


@pytest.mark.slow
def test_two_processes_have_the_losses_and_gradients_of_one(tmp_path):
    halves = in_two_processes(compute_half, tmp_path)
    for name, (value, gradient) in compute(slice(None)).items():
        own, shared = ([half[kind][name] for half in halves] for kind in (0, 1))
        assert sum(v for v, _ in shared) / 2 == pytest.approx(value, rel=1e-12), name
        assert sum(v for v, _ in own) / 2 != pytest.approx(value, rel=1e-3), name
        # DistributedDataParallel takes the mean over the processes.
        found = torch.cat([g for _, g in shared]) / 2
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-14)


def test_one_process_counts_for_itself():
    for (own, gradient), (value, other) in zip(
        compute(slice(None)).values(),
        compute(slice(None), across_processes=True).values(),
        strict=True,
    ):
        assert own == value and torch.equal(gradient, other)

# SPDX-License-Identifier: Apache-2.0
"""Cases of ``dalnet.modeling.losses``, each with its backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.layers import lattice_bounds
from benchmarks.harness import Case, Pair, relative_l2
from benchmarks.inputs import photographs, smooth_scores
from benchmarks.plain.dense_energy import published_dense_energy
from benchmarks.plain.patch_contrast import published_patch_contrast
from dalnet.modeling.losses import dense_energy, patch_token_contrast

_IGNORE = 255


def value_and_gradient(loss: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The scalar ``loss`` and its gradient in ``inputs``."""
    (gradient,) = torch.autograd.grad(loss, inputs)
    return loss.detach(), gradient


def make_dense_energy(device: str, small: bool) -> Pair:
    """Relative error of the value alone: the published gradient differs where the gate does."""
    n, classes, side = (2, 3, 32) if small else (4, 21, 448)
    images = photographs(n, side, side, small).to(device).float()
    probs = smooth_scores(n, classes, side, side).to(device).requires_grad_()
    confidence, labels = smooth_scores(n, classes, side, side, seed=1).to(device).max(dim=1)
    labels = labels.masked_fill(confidence < 0.6, _IGNORE)
    boxes = torch.tensor([[0, side, 0, side]] * n, device=device)
    bounds = lattice_bounds(F.interpolate(images, scale_factor=0.5), 15.0, 50.0)

    return Pair(
        lambda: value_and_gradient(dense_energy(images, probs, boxes, labels), probs),
        lambda: value_and_gradient(published_dense_energy(images, probs, labels, bounds), probs),
        lambda ours, plain: relative_l2(ours[0], plain[0]),
    )


def make_patch_contrast(device: str, small: bool) -> Pair:
    """Five kinds of label and ignored tokens; the error is that of the gradient."""
    n, width, side = (2, 16, 5) if small else (4, 768, 28)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, width, side, side, generator=rng).to(device).requires_grad_()
    kinds = torch.tensor([0, 1, 2, 3, 4, _IGNORE])
    labels = kinds[torch.randint(len(kinds), (n, side, side), generator=rng)].to(device)
    return Pair(
        lambda: value_and_gradient(patch_token_contrast(tokens, labels), tokens),
        lambda: value_and_gradient(published_patch_contrast(tokens, labels), tokens),
        lambda ours, plain: relative_l2(ours[1], plain[1]),
    )


CASES = (
    # The published lattice has one thread.
    Case("dense_energy", make_dense_energy, threads=1, needs="pydensecrf"),
    Case("patch_contrast", make_patch_contrast),
)

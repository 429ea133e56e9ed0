# SPDX-License-Identifier: Apache-2.0
"""Cases of ``dalnet.layers``. Errors are relative L2 unless a case says otherwise."""

import torch
from torch import Tensor

from benchmarks.harness import Case, Pair, differing_share
from benchmarks.inputs import photographs, smooth_cams, smooth_scores
from benchmarks.plain.bilateral import gaussian_sum, published_lattice
from benchmarks.plain.dense_crf import published_dense_crf
from benchmarks.plain.par import published_par, published_refine
from dalnet.layers import PixelAdaptiveRefinement, bilateral_filter, dense_crf
from dalnet.modeling.pseudo_labels import refine

_SIGMA_RGB, _SIGMA_XY = 15.0, 50.0


def lattice_bounds(images: Tensor, sigma_rgb: float, sigma_xy: float) -> list[float]:
    """Largest filtered value of a constant, per image [N, 3, H, W]; for ``published_lattice``."""
    ones = torch.ones_like(images[:, :1])
    return bilateral_filter(images, ones, sigma_rgb, sigma_xy).amax(dim=(1, 2, 3)).tolist()


def make_par(device: str, small: bool) -> Pair:
    side, classes = (20, 3) if small else (224, 21)
    images = photographs(4, side, side, small).to(device).float() / 255
    masks = smooth_scores(4, classes, side, side).to(device)
    par = PixelAdaptiveRefinement().to(device)
    return Pair(lambda: par(images, masks), lambda: published_par(images, masks))


def make_refine(device: str, small: bool) -> Pair:
    """Pseudo labels as a training step makes them; the error is the share of other labels."""
    side, classes = (40, 5) if small else (448, 20)
    images = photographs(4, side, side, small).to(device).float() / 255
    cams = smooth_cams(4, classes, side, side).to(device)
    present = torch.rand(4, classes, generator=torch.Generator().manual_seed(0)).topk(3).indices
    labels = torch.zeros(4, classes).scatter_(1, present, 1.0).to(device)
    boxes = torch.tensor([[0, side, side // 8, side]] * 4, device=device)
    par = PixelAdaptiveRefinement().to(device)
    inputs = (images, cams, labels, boxes, 0.25, 0.7)
    return Pair(
        lambda: refine(par, *inputs),
        lambda: published_refine(published_par, *inputs),
        differing_share,
    )


def make_lattice(device: str, small: bool) -> Pair:
    """Building the lattice and filtering once; on CUDA too the plain form runs on the CPU."""
    n, classes, side = (2, 3, 24) if small else (4, 21, 224)
    images = photographs(n, side, side, small).to(device).float()
    values = smooth_scores(n, classes, side, side).to(device)
    sigmas = (_SIGMA_RGB, _SIGMA_XY)
    bounds = lattice_bounds(images, *sigmas)
    return Pair(
        lambda: bilateral_filter(images, values, *sigmas),
        lambda: published_lattice(images, values, *sigmas, bounds),
    )


def make_exact(device: str, small: bool) -> Pair:
    """The error of single precision: the plain form is in double."""
    # All pairs of 4 x 224 x 224 pixels keep a CPU busy for the better part of an hour.
    n, side = (4, 224) if device == "cuda" else (1, 112)
    n, classes, side = (1, 3, 16) if small else (n, 21, side)
    images = photographs(n, side, side, small).to(device).float()
    values = smooth_scores(n, classes, side, side).to(device)
    sigmas = (_SIGMA_RGB, _SIGMA_XY)
    return Pair(
        lambda: bilateral_filter(images, values, *sigmas, method="exact"),
        lambda: gaussian_sum(images, values, *sigmas),
    )


def make_dense_crf(device: str, small: bool) -> Pair:
    """Ten iterations; the error is the share of pixels with another arg max."""
    classes, height, width = (3, 24, 31) if small else (21, 375, 500)
    images = photographs(1, height, width, small).permute(0, 2, 3, 1).contiguous().to(device)
    probs = smooth_scores(1, classes, height, width).to(device)
    return Pair(
        lambda: dense_crf(images, probs),
        lambda: published_dense_crf(images, probs),
        lambda ours, plain: differing_share(ours.argmax(dim=1), plain.argmax(dim=1)),
    )


CASES = (
    Case("par", make_par),
    Case("par_as_used", make_refine),
    # The published lattice has one thread.
    Case("lattice", make_lattice, threads=1, needs="pydensecrf"),
    Case("exact", make_exact),
    Case("dense_crf", make_dense_crf, needs="pydensecrf"),
)

# SPDX-License-Identifier: Apache-2.0
"""From edges to affinities of pixels, and a random walk along them.

J. Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations"
(IRNet), CVPR 2019.
"""

import functools
import math
import warnings

import torch
from torch import Tensor

from dalnet.modeling.losses.counts import total_count

Cell = tuple[int, int]


@functools.cache
def pair_offsets(radius: int) -> tuple[Cell, ...]:
    """Return (dy, dx) of all pixels nearer than ``radius``, one of each pair of opposite ones."""
    side = range(-radius + 1, radius)
    return tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in side
        if (dy > 0 or dx > 0) and dy**2 + dx**2 < radius**2
    )


@functools.cache
def path_cells(offset: Cell) -> tuple[Cell, ...]:
    """Return the pixels nearer than 1 to the line from (0, 0) to ``offset``, both ends included."""
    dy, dx = offset
    return tuple(
        (y, x)
        for y in range(dy + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if abs(dy * x - dx * y) < math.hypot(dy, dx)
    )


def affinities(edges: Tensor, radius: int) -> Tensor:
    """Return the affinity of each pixel with its neighbors: 1 - the strongest edge in between.

    Pixels whose neighbors may lie outside are left out: m = ``radius - 1`` columns on either side
    and as many rows below.

    Args:
        edges: ``[N, H, W]`` in 0..1.
        radius: see :func:`pair_offsets`, which gives the P neighbors.

    Returns:
        ``[N, P, H - m, W - 2 m]`` in 0..1.
    """
    m = radius - 1
    height, width = edges.shape[1] - m, edges.shape[2] - 2 * m
    strongest = [
        functools.reduce(
            torch.maximum,
            (edges[:, y : y + height, m + x : m + x + width] for y, x in path_cells(offset)),
        )
        for offset in pair_offsets(radius)
    ]
    return 1 - torch.stack(strongest, dim=1)


def random_walk(maps: Tensor, edges: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """Spread maps along affinities: each step, a pixel becomes a weighted mean of its neighbors.

    The weights are affinities to the power of ``beta``, divided by their sum. The published code
    multiplies a dense matrix of all pairs of pixels with itself; here only neighbors are stored.

    Args:
        maps: ``[K, H, W]``; they start as ``maps * (1 - edges)``.
        edges: ``[H, W]`` in 0..1.
        radius: of the neighbors.
        beta: see above.
        steps: how many.

    Returns:
        ``[K, H, W]``.
    """
    transitions = transition_matrix(edges, radius, beta)
    spread = (maps * (1 - edges)).flatten(1).T.contiguous()  # [H W, K]
    for _ in range(steps):
        spread = transitions @ spread
    return spread.T.view_as(maps)


def transition_matrix(edges: Tensor, radius: int, beta: float) -> Tensor:
    """Return the weights of :func:`random_walk`, sparse ``[H W, H W]``; each row adds up to 1."""
    height, width = edges.shape
    m = radius - 1
    # With this border no pixel is left out; pairs that leave the image are.
    padded = torch.nn.functional.pad(edges[None], (m, m, 0, m), value=1.0)
    weights = affinities(padded, radius)[0] ** beta  # [P, H, W]
    offsets = torch.tensor(pair_offsets(radius), device=edges.device)[:, :, None, None]
    y = torch.arange(height, device=edges.device)[:, None] + offsets[:, 0]  # [P, H, 1]
    x = torch.arange(width, device=edges.device) + offsets[:, 1]  # [P, 1, W]
    inside = (y < height) & (x >= 0) & (x < width)  # [P, H, W]
    pixels = torch.arange(height * width, device=edges.device)
    source = pixels.view(height, width).expand_as(inside)[inside]
    target = (y * width + x)[inside]
    pair = weights[inside]
    rows = torch.cat([source, target, pixels])
    columns = torch.cat([target, source, pixels])
    values = torch.cat([pair, pair, torch.ones_like(edges).flatten()])
    sums = torch.zeros_like(edges).flatten().index_add_(0, rows, values)
    entries = torch.stack([rows, columns]), values / sums[rows]
    with warnings.catch_warnings():
        # Compressed rows are "in beta state", and what is made here is not checked; a product with
        # them is 30 times as fast on a CPU.
        warnings.filterwarnings("ignore", "Sparse ")
        return torch.sparse_coo_tensor(*entries, (len(pixels), len(pixels))).to_sparse_csr()


def pair_losses(
    affinity: Tensor,
    label_maps: Tensor,
    radius: int,
    num_labels: int,
    across_processes: bool = False,
) -> Tensor:
    """Return IRNet's loss on affinities: pixels of one label are alike, those of two are not.

    Args:
        affinity: of :func:`affinities`, ``[N, P, h, w]``.
        label_maps: of the same pixels as the edges, ``[N, H, W]``; pairs with a value of
            ``num_labels`` or more, as an ignored one, do not count.
        radius: of the affinities.
        num_labels: background included.
        across_processes: count the pairs of all processes, see
            :func:`dalnet.modeling.losses.counts.total_count`.

    Returns:
        Scalar: the mean over pairs of background, of one object and of two labels, weighted 1, 1, 2
        and divided by 4.
    """
    m, (height, width) = radius - 1, affinity.shape[2:]
    source = label_maps[:, None, :height, m : m + width]
    target = torch.stack(
        [
            label_maps[:, dy : dy + height, m + dx : m + dx + width]
            for dy, dx in pair_offsets(radius)
        ],
        dim=1,
    )
    counts = (source < num_labels) & (target < num_labels)
    alike = counts & (source == target)
    positive, negative = -(affinity + 1e-5).log(), -(1 + 1e-5 - affinity).log()

    def mean(values: Tensor, chosen: Tensor) -> Tensor:
        total, shares = total_count(chosen.sum(), across_processes)
        return (values * chosen).sum() / (total / shares + 1e-5)

    background = mean(positive, alike & (source == 0))
    objects = mean(positive, alike & (source > 0))
    return (background / 2 + objects / 2 + mean(negative, counts & ~alike)) / 2

# SPDX-License-Identifier: Apache-2.0
"""Affinities pair by pair, and the random walk against the published dense matrix."""

import math

import pytest
import torch

from clims.affinity import affinities, pair_losses, pair_offsets, path_cells, random_walk


@pytest.mark.parametrize(("radius", "count"), [(5, 34), (10, 152)])
def test_the_published_numbers_of_neighbors(radius, count):
    offsets = pair_offsets(radius)
    assert len({*offsets}) == count
    assert not {*offsets} & {(-dy, -dx) for dy, dx in offsets}
    # On the grid of a training image, 128 x 128 places.
    if radius == 10:
        shape = affinities(torch.zeros(1, 128, 128), radius).shape
        assert shape == (1, 152, 119, 110) and 119 * 110 == 13_090


def distance_to_segment(cell, end):
    """Of a point from the line between (0, 0) and ``end``."""
    t = max(0.0, min(1.0, (cell[0] * end[0] + cell[1] * end[1]) / (end[0] ** 2 + end[1] ** 2)))
    return math.hypot(cell[0] - t * end[0], cell[1] - t * end[1])


def test_paths_are_all_cells_nearer_than_1_to_the_segment():
    for offset in pair_offsets(7):
        around = [(y, x) for y in range(-8, 9) for x in range(-8, 9)]
        expected = {c for c in around if distance_to_segment(c, offset) < 1 - 1e-9}
        assert {*path_cells(offset)} == expected


def dense_affinity(edges, radius):
    """1 - the strongest edge on the way, for all pairs of pixels: ``[HW, HW]``, diagonal 1."""
    height, width = edges.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    result = torch.eye(len(pixels), dtype=edges.dtype)
    for i, (y, x) in enumerate(pixels):
        for j, (v, u) in enumerate(pixels):
            if i != j and (v - y) ** 2 + (u - x) ** 2 < radius**2:
                way = [
                    edges[a, b].item()
                    for a, b in pixels
                    if distance_to_segment((a - y, b - x), (v - y, u - x)) < 1 - 1e-9
                ]
                result[i, j] = 1 - max(way)
    return result


@pytest.mark.parametrize(("shape", "radius"), [((5, 7), 3), ((4, 4), 5)])
def test_the_sparse_walk_is_the_dense_one(shape, radius):
    """As published: the dense matrix to the power of beta, its columns normalized, squared."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.rand(shape, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    dense = dense_affinity(edges, radius) ** 10
    assert torch.equal(dense, dense.T)
    transition = dense / dense.sum(dim=0, keepdim=True)
    for _ in range(8):
        transition = transition @ transition
    expected = ((maps * (1 - edges)).flatten(1) @ transition).view_as(maps)
    found = random_walk(maps, edges, radius, beta=10, steps=256)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    once = random_walk(maps, edges, radius, beta=10, steps=0)
    torch.testing.assert_close(once, maps * (1 - edges))


def test_a_closed_edge_stops_the_walk():
    edges = torch.full((9, 9), 0.02)
    edges[:, 4] = 1.0
    maps = torch.zeros(1, 9, 9)
    maps[0, 4, 1] = 1.0
    spread = random_walk(maps, edges, 5, beta=10, steps=256)[0]
    assert spread[:, :4].min() > 0.01 and spread[:, 5:].max() < 1e-6


def test_losses_pair_by_pair():
    generator = torch.Generator().manual_seed(1)
    radius, m = 3, 2
    edges = torch.rand(2, 7, 9, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 7, 9), generator=generator)]
    found = {"background": [], "object": [], "different": []}
    for n in range(2):
        for y in range(7 - m):
            for x in range(m, 9 - m):
                for dy, dx in pair_offsets(radius):
                    way = [edges[n, y + a, x + b] for a, b in path_cells((dy, dx))]
                    affinity = 1 - max(way)
                    one, other = labels[n, y, x], labels[n, y + dy, x + dx]
                    if 255 in (one, other):
                        continue
                    if one != other:
                        found["different"].append(-(1 + 1e-5 - affinity).log())
                    else:
                        kind = "object" if one > 0 else "background"
                        found[kind].append(-(affinity + 1e-5).log())
    means = {key: sum(values) / (len(values) + 1e-5) for key, values in found.items()}
    expected = (means["background"] / 2 + means["object"] / 2 + means["different"]) / 2
    actual = pair_losses(affinities(edges, radius), labels.float(), radius, num_labels=3)
    torch.testing.assert_close(actual, expected)


def test_gradients_and_label_maps_without_pairs():
    edges = torch.rand(1, 5, 7, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (1, 5, 7))
    assert torch.autograd.gradcheck(lambda e: pair_losses(affinities(e, 3), labels, 3, 3), edges)
    loss = pair_losses(affinities(edges, 3), torch.full((1, 5, 7), 255), 3, 3)
    assert loss == 0 and torch.autograd.grad(loss, edges)[0].isfinite().all()

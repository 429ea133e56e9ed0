# SPDX-License-Identifier: Apache-2.0
"""Gaussian filtering of scattered points on the permutohedral lattice, in plain PyTorch.

A. Adams, J. Baek, A. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010, with the output scale and the blur order of the lattice published with
P. Kraehenbuehl, V. Koltun, "Efficient Inference in Fully Connected CRFs", NeurIPS 2011.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

_MAX_KEY = 2**63 - 1
# Beyond this no float64 resolves a lattice cell, and integer coordinates could overflow.
_MAX_FEATURE = 2.0**52


class PermutohedralLattice:
    """The lattice spanned by one set of feature vectors per image; filters any values on it.

    The filter approximates ``out_i = sum_j exp(-|f_i - f_j|^2 / 2) value_j`` (``j = i`` included)
    up to the constant factor of the published lattice, in time and memory linear in the points.
    Images of a batch share one table but no lattice point: each is filtered by itself.

    Args:
        features: [N, P, d] finite floats, already divided by their standard deviations; they are
            treated as constants. Their dtype is the precision of the geometry.

    Raises:
        ValueError: wrong shape, NaN, or features so far apart that a lattice point no longer fits
            an integer key of 64 bits.
    """

    def __init__(self, features: Tensor) -> None:
        if features.dim() != 3 or not features.is_floating_point() or 0 in features.shape:
            raise ValueError(
                "lattice features must be a non-empty floating-point tensor [N, P, d], "
                f"got {features.dtype} {tuple(features.shape)}"
            )
        if not features.abs().amax() < _MAX_FEATURE:
            raise ValueError("lattice features must be finite and moderate, got NaN or huge ones")
        self.num_images, self.num_points, self.dim = features.shape
        with torch.no_grad():
            remainder, rank, weights = _enclosing_simplex(features.detach().flatten(0, 1).T)
            keys, strides = self._vertex_keys(remainder, rank)
            self._build_table(keys, weights)
            self._build_neighbours(strides)

    def filter(self, values: Tensor) -> Tensor:
        """Filter ``values`` [N, P, K]; differentiable in them (the backward is the transpose).

        Raises:
            ValueError: ``values`` does not belong to the N x P points of this lattice.
        """
        if values.dim() != 3 or values.shape[:2] != (self.num_images, self.num_points):
            raise ValueError(
                f"values must be [N, P, K] with N={self.num_images}, P={self.num_points} as in "
                f"the features, got {tuple(values.shape)}"
            )
        return _LatticeFilter.apply(values.flatten(0, 1), self).view_as(values)

    def _vertex_keys(self, remainder: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
        """Integer keys [d+1, NP] of each point's d+1 simplex vertices, and the packing strides."""
        d = self.dim
        low, high = (bound.tolist() for bound in remainder.aminmax(dim=1))
        # A vertex lies within d of the remainder-0 point in each coordinate, its neighbour within
        # another d; with that margin no two coordinates and no two images share a key.
        spans = [int(high[i]) - int(low[i]) + 4 * d + 1 for i in range(d)]
        strides = [math.prod(spans[i + 1 :]) for i in range(d)]
        per_image = math.prod(spans)
        if per_image * self.num_images > _MAX_KEY:
            raise ValueError(
                f"lattice features span too many standard deviations in {d} dimensions for 64-bit "
                "keys; enlarge the standard deviations or split the batch"
            )
        # Only d of the d+1 coordinates are stored, since they sum to zero: the last stride is 0.
        packing = torch.tensor([*strides, 0], device=rank.device)
        key = torch.arange(self.num_images, device=rank.device) * per_image
        key = key.repeat_interleave(self.num_points)
        for i, stride in enumerate(strides):
            key += (remainder[i] - (int(low[i]) - 2 * d)) * stride
        by_rank = torch.empty_like(rank).scatter_(0, rank, packing[:, None].expand_as(rank))
        # Vertex k adds k to every coordinate and takes d+1 from the k of highest rank.
        keys = [key]
        for k in range(1, d + 1):
            keys.append(keys[-1] + (sum(strides) - (d + 1) * by_rank[d + 1 - k]))
        return torch.stack(keys), strides

    def _build_table(self, keys: Tensor, weights: Tensor) -> None:
        """Number the distinct vertices; keep who splats onto each and where each point slices."""
        total = self.num_images * self.num_points
        # Stable, so that the order of a sum never depends on the other images of the batch.
        ordered, order = keys.flatten().sort(stable=True)
        self._keys, vertex, counts = ordered.unique_consecutive(
            return_inverse=True, return_counts=True
        )
        self._splat_points = order % total
        self._splat_weights = weights.flatten()[order]
        self._splat_offsets = counts.cumsum(0) - counts
        slots = torch.empty_like(order).scatter_(0, order, vertex)
        self._slice_vertices = slots.view(self.dim + 1, total).T.contiguous()
        self._slice_weights = weights.T.contiguous()

    def _build_neighbours(self, strides: list[int]) -> None:
        """Per axis, d+1 of them, the numbers of each vertex's two neighbours; M where absent."""
        count = len(self._keys)
        own = torch.arange(count, device=self._keys.device)
        self._neighbours = []
        for axis_stride in (*strides, 0):
            wanted = self._keys + ((self.dim + 1) * axis_stride - sum(strides))
            place = torch.searchsorted(self._keys, wanted).clamp_(max=count - 1)
            found = self._keys[place] == wanted
            ahead = torch.where(found, place, count)
            # Who has me ahead is behind me: no second search.
            behind = own.new_full((count + 1,), count).scatter_(0, ahead, own)[:count]
            self._neighbours.append((ahead, behind))

    def _apply(self, values: Tensor, transpose: bool) -> Tensor:
        """Splat, blur along every axis (in reverse for the transpose), slice: [NP, K]."""
        dtype = values.dtype
        table = values.new_zeros(len(self._keys) + 1, values.shape[1])  # last row: absent vertex
        table[:-1] = F.embedding_bag(
            self._splat_points,
            values.contiguous(),
            self._splat_offsets,
            mode="sum",
            per_sample_weights=self._splat_weights.to(dtype),
        )
        # Two buffers for all axes: fresh memory would cost more time than the sums.
        neighbours, others = torch.empty_like(table[:-1]), torch.empty_like(table[:-1])
        for ahead, behind in reversed(self._neighbours) if transpose else self._neighbours:
            torch.index_select(table, 0, ahead, out=neighbours)
            torch.index_select(table, 0, behind, out=others)
            table[:-1].add_(neighbours.add_(others), alpha=0.5)
        # The published lattice's constant that undoes the blur's gain.
        scale = 1.0 / (1.0 + 2.0**-self.dim)
        weights = self._slice_weights.to(dtype) * scale
        return F.embedding_bag(self._slice_vertices, table, mode="sum", per_sample_weights=weights)


class _LatticeFilter(torch.autograd.Function):
    """Linear in the values, so the backward needs the lattice and no activation."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, lattice: PermutohedralLattice) -> Tensor:
        ctx.lattice = lattice
        return lattice._apply(values, transpose=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice._apply(grad, transpose=True), None


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For points [d, n]: nearest remainder-0 vertex, coordinate ranks, barycentric weights.

    All three are [d+1, n] (int64, int64, float); Adams et al., Section 3.1 and 3.2.
    """
    d = len(features)
    # Scaled so that the lattice's blur has unit standard deviation (Adams et al., p. 6).
    std = math.sqrt(2.0 / 3.0) * (d + 1)
    scaled = [features[i] * (std / math.sqrt((i + 1) * (i + 2))) for i in range(d)]
    elevated = features.new_empty(d + 1, features.shape[1])
    above = torch.zeros_like(elevated[0])
    for i in range(d, 0, -1):
        elevated[i] = above - i * scaled[i - 1]
        above = above + scaled[i - 1]
    elevated[0] = above

    down = torch.floor(elevated / (d + 1))
    # Halves go down, as published.
    down += elevated - down * (d + 1) > (down + 1) * (d + 1) - elevated
    excess = down.sum(dim=0).long()
    remainder = down.long() * (d + 1)
    residual = elevated - remainder
    rank = torch.empty_like(remainder)
    for i in range(d + 1):
        rank[i] = (residual[i] < residual[i + 1 :]).sum(0) + (residual[i] <= residual[:i]).sum(0)
    # Rounding may leave the plane of zero sum; the coordinates rounded most step back onto it.
    rank += excess
    step = (rank < 0).long() - (rank > d).long()
    rank += step * (d + 1)
    remainder += step * (d + 1)

    residual = (elevated - remainder) / (d + 1)
    descending = torch.empty_like(residual).scatter_(0, d - rank, residual)
    weights = descending - descending.roll(1, dims=0)
    weights[0] += 1.0
    return remainder, rank, weights

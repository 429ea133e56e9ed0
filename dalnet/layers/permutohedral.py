# SPDX-License-Identifier: Apache-2.0
"""Gaussian filtering of scattered points on the permutohedral lattice, in plain PyTorch.

A. Adams, J. Baek, A. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010, with the output scale and the blur order of the lattice published with
P. Kraehenbuehl, V. Koltun, "Efficient Inference in Fully Connected CRFs", NeurIPS 2011.

Values are splatted from each point onto the d+1 vertices of the simplex around it, blurred along
the d+1 axes of the lattice, and sliced back to the points. Below, M is the number of vertices.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Key of empty slots. All other keys, and the steps to their neighbors, stay below half of it.
_EMPTY_KEY = 2**62
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
        compact: make the table exactly as long as there are lattice points; on a GPU the program
            has to wait for their number. If not, the table has room for the largest possible
            number, N * P * (d + 1); on natural images that is tens of times too many, which costs
            a GPU little. Default: compact on the CPU only.

    Raises:
        ValueError: wrong shape, NaN, or features so far apart that a lattice point no longer fits
            an integer key. What depends on the features' contents is, on a GPU, a device-side
            assertion instead: the error is then raised by a later CUDA call.
    """

    def __init__(self, features: Tensor, compact: bool | None = None) -> None:
        if features.dim() != 3 or not features.is_floating_point() or 0 in features.shape:
            raise ValueError(
                "lattice features must be a non-empty floating-point tensor [N, P, d], "
                f"got {features.dtype} {tuple(features.shape)}"
            )
        _require(
            features.detach().abs().amax() < _MAX_FEATURE,
            "lattice features must be finite and moderate, got NaN or huge ones",
        )
        self.num_images, self.num_points, self.dim = features.shape
        with torch.no_grad():
            down, place, weights = _enclosing_simplex(features.detach().flatten(0, 1).T)
            keys, strides = self._vertex_keys(down, place)
            self._build_table(keys, weights, not features.is_cuda if compact is None else compact)
            self._build_neighbors(strides)

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

    def _vertex_keys(self, down: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys [d+1, NP] of the points' vertices, and strides [d+1].

        A key packs the vertex's coordinates by these strides, and its image.
        """
        d = self.dim
        low, high = (bound.long() for bound in (down[:d].amin(dim=1), down[:d].amax(dim=1)))
        # In units of d+1, vertices lie from low - 1 to high and their neighbors 1 further out; the
        # step beyond the end of a span, into the next one, must not meet a vertex there.
        spans = high - low + 3
        # The last span is a multiple of d+1, so that keys differ between remainders: the sum of the
        # strides then leaves 1, so vertex k leaves k.
        spans[-1] += -spans[-1] % (d + 1)
        _require(
            spans.double().prod() * (d + 1) * (self.num_images + 1) < _EMPTY_KEY / 2,
            f"lattice features span too many standard deviations in {d} dimensions for 64-bit "
            "keys; enlarge the standard deviations or split the batch",
        )
        # Only d of the d+1 coordinates are stored, since they sum to zero: the last stride is 0.
        sizes = F.pad(spans, (0, 1), value=1).flip(0).cumprod(0).flip(0)
        strides = F.pad(sizes[1:], (0, 1))
        first = torch.arange(self.num_images, device=place.device) * sizes[0]
        first -= ((low - 2) * sizes[1:]).sum()
        keys = torch.empty_like(place)
        torch.sum(down[:d].long() * (strides[:d, None] * (d + 1)), dim=0, out=keys[0])
        keys[0].view(self.num_images, -1).add_(first[:, None] * (d + 1))
        axis_steps = (strides.sum() - (d + 1) * strides)[:, None].expand_as(place)
        steps = torch.empty_like(place)
        steps.view(-1).scatter_(0, place.view(-1), axis_steps.flatten())
        # Vertex k adds k to every coordinate and takes d+1 from the k of highest rank.
        for k in range(d):
            torch.add(keys[k], steps[k], out=keys[k + 1])
        return keys, strides

    def _build_table(self, keys: Tensor, weights: Tensor, compact: bool) -> None:
        """Number the vertices of ``keys`` [d+1, NP], and keep which points belong to which vertex.

        For splatting the points are listed by vertex, for slicing the vertices by point.
        """
        total = self.num_images * self.num_points
        if compact and keys.amax() < 2**31:
            keys = keys.int()  # sorts twice as fast
        # Stable, so that the order of a sum never depends on the other images of the batch.
        ordered, order = keys.flatten().sort(stable=True)  # [(d+1)NP]
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
        vertex = is_first.cumsum(0) - 1
        if compact:
            starts = is_first.nonzero().flatten()  # [M]
            self._keys = ordered.index_select(0, starts).long()
        else:
            # Vertices beyond the last one start at the end: nothing is splatted onto them.
            capacity = len(ordered)
            starts = order.new_full((capacity + 1,), capacity)
            places = torch.arange(capacity, device=order.device)
            starts = starts.scatter_(0, vertex.where(is_first, capacity), places)[:-1]
            self._keys = F.pad(ordered, (0, 1), value=_EMPTY_KEY).index_select(0, starts)
        self._splat_points = order % total
        self._splat_weights = weights.flatten().index_select(0, order)
        self._splat_offsets = starts
        slots = torch.empty_like(order).scatter_(0, order, vertex)
        self._slice_vertices = slots.view(self.dim + 1, total).T.contiguous()  # [NP, d+1]
        self._slice_weights = weights.T.contiguous()  # [NP, d+1]

    def _build_neighbors(self, strides: Tensor) -> None:
        """Keep per axis (d+1) the numbers [M] of each vertex's two neighbors, or M for none."""
        count = len(self._keys)
        own = torch.arange(count, device=self._keys.device)
        self._neighbors = []
        for axis_step in ((self.dim + 1) * strides - strides.sum()).unbind():
            wanted = self._keys + axis_step
            place = torch.searchsorted(self._keys, wanted).clamp_(max=count - 1)
            found = self._keys.index_select(0, place) == wanted
            ahead = torch.where(found, place, count)
            # If b lies ahead of a, then a lies behind b: no second search.
            behind = own.new_full((count + 1,), count).scatter_(0, ahead, own)[:count]
            self._neighbors.append((ahead, behind))

    def _apply(self, values: Tensor, transpose: bool) -> Tensor:
        """Splat [NP, K], blur along every axis (in reverse for the transpose), slice: [NP, K]."""
        dtype = values.dtype
        table = values.new_zeros(len(self._keys) + 1, values.shape[1])  # last row: absent vertex
        table[:-1] = F.embedding_bag(
            self._splat_points,
            values.contiguous(),
            self._splat_offsets,
            mode="sum",
            per_sample_weights=self._splat_weights.to(dtype),
        )
        # Two buffers serve all axes, because allocating memory would take longer than the sums.
        neighbors, others = torch.empty_like(table[:-1]), torch.empty_like(table[:-1])
        for ahead, behind in reversed(self._neighbors) if transpose else self._neighbors:
            torch.index_select(table, 0, ahead, out=neighbors)
            torch.index_select(table, 0, behind, out=others)
            table[:-1].add_(neighbors.add_(others), alpha=0.5)
        # The published lattice's constant that undoes the blur's gain.
        scale = 1.0 / (1.0 + 2.0**-self.dim)
        weights = self._slice_weights.to(dtype) * scale
        return F.embedding_bag(self._slice_vertices, table, mode="sum", per_sample_weights=weights)


class _LatticeContext(FunctionCtx):
    lattice: PermutohedralLattice


class _LatticeFilter(torch.autograd.Function):
    """Linear in the values, so the backward needs the lattice and no activation."""

    @staticmethod
    def forward(ctx: _LatticeContext, values: Tensor, lattice: PermutohedralLattice) -> Tensor:
        ctx.lattice = lattice
        return lattice._apply(values, transpose=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: _LatticeContext, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice._apply(grad, transpose=True), None


def _require(condition: Tensor, message: str) -> None:
    """Raise ValueError unless the scalar ``condition`` is true.

    On a GPU it becomes a device-side assertion, so that the program need not wait for the value.
    """
    if condition.is_cuda:
        torch._assert_async(condition, message)
    elif not condition:
        raise ValueError(message)


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where points [d, n] lie in the lattice (Adams et al., Section 3.1 and 3.2).

    Returns:
        All [d+1, n]: the nearest vertex of remainder 0, divided by d+1 (float); where in a
        flattened [d+1, n] each coordinate belongs when sorted by descending rank (int64); the
        barycentric weights of the simplex's vertices, that of remainder 0 first (float).
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
    down += elevated.sub(down, alpha=d + 1) > (down + 1).mul_(d + 1).sub_(elevated)
    residual = elevated.sub(down, alpha=d + 1)
    rank = _ascending_rank(residual)
    # Rounding may leave the plane of zero sum; the coordinates rounded most step back onto it.
    rank += down.sum(dim=0).to(rank.dtype)
    step = (rank.clamp(0, d) - rank).sign_()
    rank += step * (d + 1)
    down += step

    residual = elevated.sub_(down, alpha=d + 1).div_(d + 1)
    # Flat indices, because scattering along a short first dimension is three times slower.
    place = (d - rank).long().mul_(features.shape[1])
    place += torch.arange(features.shape[1], device=features.device)
    weights = torch.empty_like(residual)
    weights.view(-1).scatter_(0, place.view(-1), residual.view(-1))
    weights -= weights.roll(1, dims=0)
    weights[0] += 1.0
    return down, place, weights


def _ascending_rank(residual: Tensor) -> Tensor:
    """Return how many coordinates of a point are larger than each, as int8 [d+1, n].

    Of equal ones, an earlier coordinate counts as larger.
    """
    # int8 is several times faster here than the int64 that indexing asks for.
    rank = torch.arange(len(residual), dtype=torch.int8, device=residual.device)[:, None]
    rank = rank.repeat(1, residual.shape[1])
    for i in range(len(residual) - 1):
        less = (residual[i] < residual[i + 1 :]).to(rank.dtype)
        rank[i] += less.sum(dim=0, dtype=rank.dtype)
        rank[i + 1 :] -= less
    return rank

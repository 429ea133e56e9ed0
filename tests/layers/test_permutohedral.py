# SPDX-License-Identifier: Apache-2.0
"""The lattice against the published implementation, and as a linear map."""

import pytest
import torch
from torch import Tensor

from benchmarks.plain.bilateral import filter_points
from dalnet.layers.bilateral import pixel_features
from dalnet.layers.permutohedral import PermutohedralLattice


def _published_filter(features: Tensor, values: Tensor) -> Tensor:
    """pydensecrf's lattice on features [P, d] and values [P, K] that sum to 1 over K."""
    pytest.importorskip("pydensecrf.densecrf")
    lattice = PermutohedralLattice(features[None])
    bound = lattice.filter(torch.ones(1, len(features), 1)).max().item()
    return filter_points(features, values.T, 20.0 / bound).T


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("size", "xy_std", "rgb_std"), [((48, 64), 25, 15), ((33, 57), 80, 13), ((40, 40), 121, 5)]
)
def test_equals_the_published_lattice_on_pictures(make_pictures, size, xy_std, rgb_std):
    features = pixel_features(make_pictures(1, *size).float(), xy_std, rgb_std)
    values = torch.rand(1, size[0] * size[1], 4).softmax(dim=2)
    got = PermutohedralLattice(features).filter(values)
    assert _relative_error(got[0], _published_filter(features[0], values[0])) < 1e-4


# Points close together leave the integer keys their narrowest ranges.
@pytest.mark.parametrize("spread", [3.0, 0.15])
@pytest.mark.parametrize("dim", [1, 2, 3, 6, 8])
def test_equals_the_published_lattice_in_other_dimensions(dim, spread):
    rng = torch.Generator().manual_seed(dim)
    features = spread * torch.randn(1, 500, dim, generator=rng)
    values = torch.rand(1, 500, 3, generator=rng).softmax(dim=2)
    got = PermutohedralLattice(features).filter(values)
    assert _relative_error(got[0], _published_filter(features[0], values[0])) < 1e-4


def test_follows_the_gaussian_in_one_dimension():
    """In one dimension the lattice is a fine grid, so that shape and scale must be right."""
    features = torch.linspace(-4, 4, 801, dtype=torch.float64)[None, :, None]
    impulse = torch.zeros(1, 801, 1, dtype=torch.float64)
    impulse[0, 400] = 1
    response = PermutohedralLattice(features).filter(impulse).flatten()
    gaussian = torch.exp(-0.5 * features.flatten() ** 2)
    best_scale = (response @ gaussian) / (response @ response)
    assert (best_scale * response - gaussian).norm() / gaussian.norm() < 0.1


@pytest.mark.parametrize("compact", [True, False])
def test_backward_is_the_transpose(compact):
    rng = torch.Generator().manual_seed(0)
    features = 2 * torch.randn(2, 40, 5, generator=rng, dtype=torch.float64)
    lattice = PermutohedralLattice(features, compact)
    values = torch.randn(2, 40, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, (values,))


def test_the_transpose_differs_from_the_filter():
    """Blurs of two axes do not commute at the lattice's rim: a symmetric backward is wrong."""
    features = 2 * torch.randn(
        1, 60, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    matrix = PermutohedralLattice(features).filter(torch.eye(60, dtype=torch.float64)[None])[0]
    assert (matrix - matrix.T).abs().max() > 1e-4


def test_an_image_does_not_see_its_batch():
    rng = torch.Generator().manual_seed(0)
    features = 2 * torch.randn(3, 200, 5, generator=rng)
    features[1] += 40  # stretches the range of keys that all images share
    values = torch.rand(3, 200, 2, generator=rng)
    together = PermutohedralLattice(features).filter(values)
    order = [2, 0, 1]
    assert torch.equal(PermutohedralLattice(features[order]).filter(values[order]), together[order])
    for i in range(3):
        alone = PermutohedralLattice(features[i : i + 1]).filter(values[i : i + 1])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("spread", [3.0, 0.15])
def test_a_table_with_room_to_spare_as_the_compact_one(dtype, tol, spread):
    """What a GPU does, on the CPU; with and without slots to spare."""
    rng = torch.Generator().manual_seed(0)
    features = spread * torch.randn(3, 200, 5, generator=rng, dtype=dtype)
    values = torch.randn(3, 200, 4, generator=rng, dtype=dtype, requires_grad=True)
    compact, roomy = (PermutohedralLattice(features, compact) for compact in (True, False))
    assert len(roomy._keys) == 3 * 200 * 6 > len(compact._keys)
    torch.testing.assert_close(roomy.filter(values), compact.filter(values), rtol=tol, atol=tol)
    out = torch.randn(3, 200, 4, generator=rng, dtype=dtype)
    grads = [torch.autograd.grad(x.filter(values), values, out)[0] for x in (roomy, compact)]
    torch.testing.assert_close(*grads, rtol=tol, atol=tol)


def test_a_full_table():
    """Points so far apart that no two share a lattice point: no slot is spare."""
    features = 1000.0 * torch.arange(20.0)[None, :, None]
    values = torch.rand(1, 20, 2)
    compact, roomy = (PermutohedralLattice(features, compact) for compact in (True, False))
    assert len(roomy._keys) == len(compact._keys) == 40
    assert torch.equal(roomy.filter(values), compact.filter(values))


def test_keys_of_more_than_32_bits(make_pictures):
    """A far point stretches the range of keys and must not change what the others see."""
    features = pixel_features(make_pictures(1, 12, 14).float(), 20, 10)
    values = torch.rand(1, 12 * 14, 2)
    far = torch.full((1, 1, 5), 900.0)
    lattice = PermutohedralLattice(torch.cat([features, far], dim=1))
    assert lattice._keys.max() > 2**32
    got = lattice.filter(torch.cat([values, torch.ones(1, 1, 2)], dim=1))
    torch.testing.assert_close(got[:, :-1], PermutohedralLattice(features).filter(values))


def test_identical_images_share_nothing():
    features = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    values = torch.stack([torch.ones(50, 1), torch.zeros(50, 1)])
    filtered = PermutohedralLattice(features).filter(values)
    assert filtered[0].min() > 0 and filtered[1].abs().max() == 0


def test_coincident_points_get_the_same_value():
    values = torch.rand(1, 30, 2, dtype=torch.float64)
    filtered = PermutohedralLattice(torch.full((1, 30, 5), 7.3, dtype=torch.float64)).filter(values)
    torch.testing.assert_close(filtered, filtered[:, :1].expand_as(filtered))
    ratio = filtered[0, 0] / values[0].sum(dim=0)
    torch.testing.assert_close(ratio[0], ratio[1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="non-empty floating-point"):
        PermutohedralLattice(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="non-empty floating-point"):
        PermutohedralLattice(torch.zeros(1, 4, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="non-empty floating-point"):
        PermutohedralLattice(torch.zeros(1, 0, 5))
    with pytest.raises(ValueError, match="64-bit keys"):
        PermutohedralLattice(torch.tensor([[[0.0] * 5, [1e6] * 5]]))
    with pytest.raises(ValueError, match="must be finite"):
        PermutohedralLattice(torch.full((1, 3, 5), 1e30))
    with pytest.raises(ValueError, match="must be finite"):
        PermutohedralLattice(torch.full((1, 3, 5), float("nan")))
    with pytest.raises(ValueError, match="as in the features"):
        PermutohedralLattice(torch.rand(1, 4, 5)).filter(torch.rand(1, 5, 2))

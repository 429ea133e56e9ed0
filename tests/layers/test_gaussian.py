# SPDX-License-Identifier: Apache-2.0
"""The sum over all pairs: tiles, and the Triton kernel in Triton's interpreter and compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalnet.layers import gaussian
from dalnet.layers.gaussian import gaussian_filter

# One point, ragged and even tiles of 64 rows and 32 columns, one block of values and several.
_CASES = [(1, 1, 1), (2, 45, 21), (1, 64, 16), (2, 77, 1), (1, 131, 81), (1, 33, 130)]


def _random(n: int, p: int, k: int) -> tuple[Tensor, Tensor]:
    """Features [n, p, 5] of near and far points, values [n, k, p] of either sign."""
    rng = torch.Generator().manual_seed(p)
    return torch.randn(n, p, 5, generator=rng), torch.randn(n, k, p, generator=rng)


def _sum_over_pairs(features: Tensor, values: Tensor) -> Tensor:
    kernel = (-0.5 * torch.cdist(features.double(), features.double()).square()).exp()
    return values.double() @ kernel


def _run_triton(script: str, *args: str | Path, **environment: str) -> str:
    """Triton decides when it is imported whether to interpret: a process of its own."""
    path = Path(__file__).parent / script
    done = subprocess.run(
        [sys.executable, str(path), *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("n", "p", "k"), _CASES)
def test_equals_the_sum_over_pairs(n, p, k, monkeypatch):
    features, values = _random(n, p, k)
    expected = _sum_over_pairs(features, values)
    # 7 rows a tile leave a last tile of fewer.
    monkeypatch.setattr(gaussian, "_TILE_ELEMENTS", {False: 7 * p, True: 7 * p})
    double = gaussian_filter(features.double(), values.double())
    torch.testing.assert_close(double, expected, rtol=1e-11, atol=1e-11)
    single = gaussian_filter(features, values)
    assert single.dtype == torch.float32 and single.is_contiguous()
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


def test_triton_kernel_in_the_interpreter(tmp_path):
    pytest.importorskip("triton")
    inputs = [_random(*case) for case in _CASES]
    inputs.append((torch.full((1, 70, 5), 3.7), torch.rand(1, 2, 70)))  # a flat image
    inputs.append((1e4 * inputs[1][0], inputs[1][1]))  # every point for itself
    strided = torch.randn(2, 45, 21).transpose(1, 2)
    inputs.append((inputs[1][0], strided))
    inputs.append((inputs[1][0], torch.ones(()).expand(2, 21, 45)))  # the gradient of a sum
    torch.save(inputs, tmp_path / "inputs.pt")
    _run_triton(
        "interpret_gaussian.py",
        tmp_path / "inputs.pt",
        tmp_path / "sums.pt",
        TRITON_INTERPRET="1",
    )
    sums = torch.load(tmp_path / "sums.pt")
    assert len(sums) == len(inputs)
    for (features, values), got in zip(inputs, sums, strict=True):
        assert got.is_contiguous()
        expected = _sum_over_pairs(features, values)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_triton_kernel_compiles_without_a_gpu(tmp_path):
    pytest.importorskip("triton")
    # Its cache is shared by machines whose ptxas may differ: always compile anew.
    done = _run_triton("compile_gaussian.py", "90", TRITON_CACHE_DIR=str(tmp_path))
    _registers, stack, shared = map(int, done.split())
    assert stack == 0, "registers are spilled"
    assert shared <= 48 * 1024  # several programs fit a multiprocessor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("n", "p", "k"), [*_CASES, (2, 3000, 21), (1, 3000, 81)])
def test_triton_kernel_on_the_gpu(n, p, k):
    pytest.importorskip("triton")
    features, values = _random(n, p, k)
    assert gaussian._fused_sum() is not None
    got = gaussian_filter(features.cuda(), values.cuda()).cpu()
    expected = _sum_over_pairs(features, values)
    bound = _sum_over_pairs(features, values.abs())
    assert ((got - expected).abs() / bound).max() < 1e-5
    double = gaussian_filter(features.cuda().double(), values.cuda().double()).cpu()
    torch.testing.assert_close(double, expected, rtol=1e-10, atol=1e-10)


def test_falls_back_where_the_kernel_cannot_be_had(monkeypatch):
    monkeypatch.setitem(sys.modules, "dalnet.layers.gaussian_triton", None)
    gaussian._fused_sum.cache_clear()
    try:
        with pytest.warns(UserWarning, match="Triton kernel is not available"):
            got = gaussian._cuda_sum(*_random(1, 45, 2))
    finally:
        gaussian._fused_sum.cache_clear()
    torch.testing.assert_close(got, gaussian_filter(*_random(1, 45, 2)))

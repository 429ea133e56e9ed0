# SPDX-License-Identifier: Apache-2.0
"""Make products of matrices and attention over few tokens quick on a CPU, in float32."""

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_FEW, _FEW_WITH_GRADIENT = 160, 256  # tokens, up to which all pairs are the quicker attention
_choosing = threading.RLock()
_LARGEST_ERROR = 1e-5  # of a product in float32, relative to the product's largest value


@functools.cache
def use_onednn_products() -> bool:
    """Let oneDNN multiply float32 matrices on a CPU where it keeps the digits of float32.

    MKL, PyTorch's default, leaves the 512-bit units of AMD's CPUs idle. PyTorch asks oneDNN only
    where lower precision is allowed, which oneDNN makes use of on CPUs with bfloat16 matrix units
    alone. So it is allowed, one product is compared with float64, and where digits are lost all is
    as before. A precision that the caller has chosen stays, and so does that of a GPU.

    Returns:
        Whether oneDNN multiplies.
    """
    if torch.cuda.is_available() or torch.get_float32_matmul_precision() != "highest":
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = first.double() @ second.double()
    torch.set_float32_matmul_precision("medium")
    is_exact = bool((first @ second - exact).abs().max() < _LARGEST_ERROR * exact.abs().max())
    if not is_exact:
        torch.set_float32_matmul_precision("highest")
    return is_exact


def attention_kernel(tokens: int, device: torch.device) -> AbstractContextManager[None]:
    """Return a context that chooses PyTorch's attention over so many tokens.

    PyTorch's fused attention on a CPU multiplies small blocks, and asking oneDNN for each costs
    more than the product: over 50 tokens it takes five times as long as by MKL. With few tokens the
    matrix of all pairs is the quicker form, and small. The backward pass of the fused one is the
    slower half, so that with a gradient the limit is higher. Elsewhere nothing is changed.
    """
    if device.type != "cpu" or torch.compiler.is_compiling() or not use_onednn_products():
        return nullcontext()
    is_short = tokens <= (_FEW_WITH_GRADIENT if torch.is_grad_enabled() else _FEW)
    return _all_pairs() if is_short else nullcontext()


@contextmanager
def _all_pairs() -> Iterator[None]:
    # PyTorch keeps its choice for the whole process: threads that set it and bring it back in
    # turns would leave it as it was in between.
    with _choosing, sdpa_kernel(SDPBackend.MATH):
        yield

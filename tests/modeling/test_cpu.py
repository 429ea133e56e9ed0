# SPDX-License-Identifier: Apache-2.0
"""Float32 products of a CPU keep their digits, whichever library multiplies."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dalnet.modeling.cpu import attention_kernel, use_onednn_products


@pytest.fixture
def precision() -> Iterator[None]:
    """Ask anew, and leave the precision as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    use_onednn_products.cache_clear()
    yield
    torch.set_float32_matmul_precision(before)
    use_onednn_products.cache_clear()


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("rows, inner, columns", [(788, 192, 768), (4, 1536, 21), (1, 3, 1)])
def test_products_are_float32(rows: int, inner: int, columns: int) -> None:
    use_onednn_products()
    first = torch.randn(rows, inner, requires_grad=True)
    second = torch.randn(columns, inner, requires_grad=True)
    product = torch.nn.functional.linear(first, second)
    above = torch.randn_like(product)
    product.backward(above)
    a, b, g = first.detach().double(), second.detach().double(), above.double()
    for found, exact in ((product, a @ b.mT), (first.grad, g @ b), (second.grad, g.mT @ a)):
        assert found is not None
        assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.usefixtures("precision")
def test_lost_digits_leave_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalnet.modeling.cpu._LARGEST_ERROR", 0.0)
    assert not use_onednn_products()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("precision")
def test_a_chosen_precision_stays() -> None:
    torch.set_float32_matmul_precision("high")
    assert not use_onednn_products()
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("length", [50, 145, 200, 300])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_chosen_attention_gives_the_same(length: int, with_gradient: bool) -> None:
    queries, keys, values = torch.randn(3, 2, 3, length, 16, dtype=torch.float64)
    expected = (queries @ keys.mT / 4).softmax(dim=-1) @ values
    with torch.set_grad_enabled(with_gradient), attention_kernel(length, queries.device):
        found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(
    "length, with_gradient, is_changed",
    [(160, False, True), (161, False, False), (256, True, True), (257, True, False)],
)
def test_few_tokens_are_attended_to_by_all_pairs(
    length: int, with_gradient: bool, is_changed: bool
) -> None:
    is_changed &= use_onednn_products()
    with torch.set_grad_enabled(with_gradient), attention_kernel(length, torch.device("cpu")):
        assert torch.backends.cuda.flash_sdp_enabled() is not is_changed
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.usefixtures("precision")
def test_threads_leave_the_choice_as_it_was() -> None:
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with attention_kernel(50, torch.device("cpu")):
            first_in.set()
            second_in.wait(0.5)  # comes in meanwhile, if it can
        first_out.set()

    def second() -> None:
        first_in.wait()
        with attention_kernel(50, torch.device("cpu")):
            second_in.set()
            first_out.wait(5)

    with ThreadPoolExecutor(2) as pool:
        for task in [pool.submit(first), pool.submit(second)]:
            task.result()
    assert torch.backends.cuda.flash_sdp_enabled()

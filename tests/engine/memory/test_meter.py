"""What is counted, against closed forms, and against the peak that the operating system saw (in test_estimate)."""

import pytest
import torch
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint_sequential

from engine.memory.meter import as_on_a_device, metered

KB = 1024


def on_meta(*shape: int, learns: bool = False) -> torch.Tensor:
    return torch.empty(*shape, device="meta", requires_grad=learns)


def test_what_is_made_counts_until_it_is_freed() -> None:
    weight = on_meta(256, 256)
    with metered([weight]) as meter:
        x = torch.empty(1, 256, device="meta")  # 1 KiB
        for _ in range(3):
            x = linear(x, weight) + 1  # the old x, the product and the sum
        assert meter.held_bytes == KB
        assert meter.restart() == 3 * KB
        x.view(16, 16).T  # noqa: B018 - a view holds nothing of its own
        assert meter.restart() == KB
    del x
    assert meter.held_bytes == 0


def test_autograd_keeps_what_the_way_back_needs() -> None:
    """y = tanh(x) four times: backwards needs each y, and no x but the first, which is there anyway."""
    x = on_meta(256, learns=True)
    with metered([x]) as meter:
        y = x
        for _ in range(4):
            y = y.tanh()
        assert meter.held_bytes == 4 * KB
    with metered([x]) as meter, torch.no_grad():
        y = x
        for _ in range(4):
            y = y.tanh()
        assert meter.held_bytes == KB
        assert meter.peak_bytes == 2 * KB


def test_recomputing_keeps_less() -> None:
    def deep(x: torch.Tensor) -> torch.Tensor:
        for _ in range(8):
            x = x.tanh()
        return x

    x = on_meta(256, learns=True)
    with metered([x]) as meter:
        torch.autograd.backward(deep(x).sum())
        kept_bytes = meter.restart()
    with metered([x]) as meter:
        torch.autograd.backward(checkpoint_sequential([deep] * 4, 4, x, use_reentrant=False).sum())
        assert meter.restart() < 2 * kept_bytes  # four times as deep


@pytest.mark.parametrize("plain", [True, False])
def test_attention_in_one_kernel_keeps_no_matrix(plain: bool) -> None:
    tokens, width = 1024, 16
    query = on_meta(1, 1, tokens, width)
    with metered([query]) as meter, as_on_a_device(plain_attention=plain):
        scaled_dot_product_attention(query, query, query)
    matrix_bytes = tokens * tokens * 4
    assert (meter.peak_bytes >= matrix_bytes) == plain
    if not plain:
        assert meter.peak_bytes == tokens * (width + 1) * 4  # the output, and the logarithm of each row's sum


def test_products_are_in_half_precision_where_autocast_makes_them_so() -> None:
    x, weight = on_meta(8, 8), on_meta(8, 8)
    with as_on_a_device(torch.bfloat16, norms_in_single=True):
        product = linear(x, weight)
        assert product.dtype == torch.bfloat16
        assert torch.nn.functional.layer_norm(product, (8,)).dtype == torch.float32
    assert linear(x, weight).dtype == torch.float32


def test_a_convolution_needs_its_pixels_twice_unless_channels_come_last() -> None:
    pixels, weight = on_meta(1, 8, 16, 16), on_meta(8, 8, 3, 3)
    size_bytes = pixels.nbytes
    with metered([pixels, weight]) as meter:
        conv2d(pixels, weight, padding=1)
    assert meter.peak_bytes == 3 * size_bytes + weight.nbytes
    last = pixels.to(memory_format=torch.channels_last)
    with metered([last, weight]) as meter:
        conv2d(last, weight, padding=1)
    assert meter.peak_bytes == size_bytes + weight.nbytes

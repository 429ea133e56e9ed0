# SPDX-License-Identifier: Apache-2.0
"""The sum over all pairs of points under a Gaussian kernel, as one Triton kernel.

Written like attention: a program holds a few rows of the kernel matrix and walks over its columns,
so that no more than a tile of the matrix ever exists. Importing this file needs Triton.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tiles that fit the registers of GPUs from compute capability 8.0 on; more values than that many
# channels mean more programs, each with its own weights.
_ROWS, _COLUMNS, _MAX_CHANNELS = 64, 32, 64


@triton.jit
def squared_difference(row: tl.tensor, column: tl.tensor, is_column: tl.tensor) -> tl.tensor:
    """Return ``(row_i - column_j)^2`` of values [ROWS, 1] and pointers [COLUMNS]."""
    delta = row - tl.load(column, mask=is_column, other=0.0)[None, :]
    return delta * delta


@triton.jit
def gaussian_sum_kernel(
    features: tl.tensor,
    values: tl.tensor,
    sums: tl.tensor,
    num_points: int,
    num_channels: int,
    image_stride: int,
    channel_stride: int,
    point_stride: int,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Write ``sums[n, k, i] = sum_j exp2(-|f_i - f_j|^2) values[n, k, j]``, a tile of (i, k) each.

    ``features`` [N, 5, P] and ``sums`` [N, K, P] are contiguous, ``values`` [N, K, P] go by their
    strides. The grid is [tiles of P, tiles of K, N].
    """
    # 64 bits wherever the product with a stride may not fit 32.
    image = tl.program_id(2).to(tl.int64)
    channel = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_channel = channel < num_channels
    is_row = row < num_points

    x = features + image * 5 * num_points
    y = x + num_points
    red = y + num_points
    green = red + num_points
    blue = green + num_points
    row_x = tl.load(x + row, mask=is_row, other=0.0)[:, None]
    row_y = tl.load(y + row, mask=is_row, other=0.0)[:, None]
    row_red = tl.load(red + row, mask=is_row, other=0.0)[:, None]
    row_green = tl.load(green + row, mask=is_row, other=0.0)[:, None]
    row_blue = tl.load(blue + row, mask=is_row, other=0.0)[:, None]
    source = values + image * image_stride + channel[None, :] * channel_stride

    total = tl.zeros([ROWS, CHANNELS], dtype=tl.float32)
    for start in range(0, num_points, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        is_column = column < num_points
        # Squares of differences: |f_i|^2 + |f_j|^2 - 2 f_i.f_j would cancel.
        exponent = squared_difference(row_x, x + column, is_column)
        exponent += squared_difference(row_y, y + column, is_column)
        exponent += squared_difference(row_red, red + column, is_column)
        exponent += squared_difference(row_green, green + column, is_column)
        exponent += squared_difference(row_blue, blue + column, is_column)
        weight = tl.exp2(-exponent)
        # Columns beyond the last point have weight, but values of 0.
        block = tl.load(
            source + column.to(tl.int64)[:, None] * point_stride,
            mask=is_column[:, None] & is_channel[None, :],
            other=0.0,
        )
        # Three tf32 products are as good as float32. One is not good enough: where the tensor core
        # cuts its operands to 10 bits of mantissa, all weights and values shrink, by 1e-3 together.
        total = tl.dot(weight, block, total, input_precision="tf32x3")

    target = sums + (image * num_channels + channel[None, :]) * num_points + row[:, None]
    tl.store(target, total, mask=is_row[:, None] & is_channel[None, :])


def gaussian_sum(features: Tensor, values: Tensor) -> Tensor:
    """Return the sums of :func:`dalnet.layers.gaussian.gaussian_filter`, contiguous.

    Args:
        features: [N, P, 5] float32.
        values: [N, K, P] float32, any strides.
    """
    num_images, num_channels, num_points = values.shape
    # exp(-d^2 / 2) = exp2(-(scale d)^2)
    features = (features * math.sqrt(0.5 / math.log(2.0))).transpose(1, 2).contiguous()
    sums = torch.empty_like(values, memory_format=torch.contiguous_format)
    channels = min(max(16, triton.next_power_of_2(num_channels)), _MAX_CHANNELS)
    grid = (triton.cdiv(num_points, _ROWS), triton.cdiv(num_channels, channels), num_images)
    # Triton launches on the current GPU, whichever the tensors are on.
    with torch.cuda.device_of(values):
        gaussian_sum_kernel[grid](
            features,
            values,
            sums,
            num_points,
            num_channels,
            *values.stride(),
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            CHANNELS=channels,
        )
    return sums

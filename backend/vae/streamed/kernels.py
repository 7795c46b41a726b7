"""The convolutions of the streamed VAE, on windows that already hold the rows above and below (1, C, n + 2, W).

Two of them get by with fewer multiplications than the layer they stand for. Both only rearrange sums, so the results
are the layer's own up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

Kernel = Callable[[Tensor], Tensor]

# Queries and keys of one block of `blocked_attention`: its scores stay in the cache, and fewer, larger products than
# these gained nothing (measured on one x86 CPU).
QUERY_BLOCK, KEY_BLOCK = 512, 1024

# Below this width the sums around the products cost more than the products saved (measured on two x86 CPUs).
WINOGRAD_CHANNELS = 256


def conv3x3(conv: nn.Conv2d) -> Kernel:
    """(1, C, n + 2, W) to (1, O, n, W): a 3x3 convolution, padded on the left and right only."""
    if uses_winograd(conv, conv.weight.dtype, conv.weight.device.type):
        return winograd_conv(conv)
    weight = _packed(conv.weight)
    return lambda window: F.conv2d(window, weight, conv.bias, padding=(0, 1))


def map_conv3x3(conv: nn.Conv2d) -> Kernel | None:
    """(1, C, H, W) to (1, O, H, W): the same with padding on all sides, for a map that is not cut into strips.
    None where windows get by with fewer multiplications."""
    if uses_winograd(conv, conv.weight.dtype, conv.weight.device.type):
        return None
    return lambda x: F.conv2d(x, conv.weight, conv.bias, padding=1)


def uses_winograd(conv: nn.Conv2d, dtype: torch.dtype, device_type: str) -> bool:
    """Only in float32, whose precision the sums of rows cannot harm, and only on the CPU: cuDNN has its own."""
    narrowest = min(conv.in_channels, conv.out_channels)
    return dtype == torch.float32 and device_type == "cpu" and narrowest >= WINOGRAD_CHANNELS


def winograd_conv(conv: nn.Conv2d) -> Kernel:
    """`conv3x3` with two output rows from four row products instead of six: Winograd's F(2, 3) over the rows.

    For rows d0..d3 and the kernel's rows g0, g1, g2 (Lavin and Gray 2015, section 4.1):
        m0 = (d0 - d2) g0,  m1 = (d1 + d2) (g0 + g1 + g2) / 2,  m2 = (d2 - d1) (g0 - g1 + g2) / 2,  m3 = (d1 - d3) g2
        upper row = m0 + m1 + m2,  lower row = m1 - m2 - m3
    """
    g0, g1, g2 = conv.weight.split(1, dim=2)
    w0, w1, w2, w3 = (_packed(w) for w in (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2))
    plain = _packed(conv.weight)

    def apply(window: Tensor) -> Tensor:
        count = window.shape[2] - 2
        if count % 2:  # the last strip, or the first of a stream behind another
            return F.conv2d(window, plain, conv.bias, padding=(0, 1))
        d0, d1, d2, d3 = (window[:, :, i : i + count : 2] for i in range(4))
        out = _empty_like(window, conv.out_channels, count, window.shape[3])
        upper, lower = out[:, :, 0::2], out[:, :, 1::2]
        rows = d1 + d2
        product = F.conv2d(rows, w1, conv.bias, padding=(0, 1))
        upper.copy_(product)
        lower.copy_(product)
        del product
        product = F.conv2d(torch.sub(d2, d1, out=rows), w2, padding=(0, 1))
        upper += product
        lower -= product
        del product
        upper += F.conv2d(torch.sub(d0, d2, out=rows), w0, padding=(0, 1))
        lower -= F.conv2d(torch.sub(d1, d3, out=rows), w3, padding=(0, 1))
        return out

    return apply


def upsampling_conv(conv: nn.Conv2d) -> Kernel:
    """(1, C, n + 2, W) to (1, O, 2n, 2W): nearest x2, then a 3x3 convolution with padding 1."""
    if uses_phases(conv.weight.dtype):
        return phase_conv(conv)
    weight = _packed(conv.weight)

    def apply(window: Tensor) -> Tensor:
        doubled = F.interpolate(window, scale_factor=2.0, mode="nearest")
        return F.conv2d(doubled[:, :, 1:-1], weight, conv.bias, padding=(0, 1))

    return apply


def map_upsampling_conv(conv: nn.Conv2d) -> Kernel | None:
    """(1, C, H, W) to (1, O, 2H, 2W): the same for a map that is not cut into strips. None where windows get by with
    fewer multiplications."""
    if uses_phases(conv.weight.dtype):
        return None
    return lambda x: F.conv2d(
        F.interpolate(x, scale_factor=2.0, mode="nearest"), conv.weight, conv.bias, padding=1
    )


def uses_phases(dtype: torch.dtype) -> bool:
    """Only in float32: rounding the summed taps to half precision costs 0.15 to 0.25 dB of a decode."""
    return dtype == torch.float32


def phase_conv(conv: nn.Conv2d) -> Kernel:
    """`upsampling_conv` without the upsampled map.

    In the upsampled map neighbours repeat, so each output phase (even or odd, per axis) sees only two distinct inputs
    per axis: even ones the kernel's taps (w0, w1 + w2), odd ones (w0 + w1, w2). Four 2x2 convolutions with summed taps
    do the work of the 3x3 one: 16 multiplications for four outputs instead of 36.
    """
    channels = conv.out_channels
    weights = []
    for dy in (0, 1):
        rows = _phase(conv.weight, 2, dy)
        weights.append(_packed(torch.cat([_phase(rows, 3, dx) for dx in (0, 1)])))
    bias = None if conv.bias is None else conv.bias.repeat(2)
    del rows

    def apply(window: Tensor) -> Tensor:
        count, width = window.shape[2] - 2, window.shape[3]
        out = _empty_like(window, channels, 2 * count, 2 * width)
        for dy in (0, 1):
            # Columns: padding 1 gives W + 1 outputs, of which the even phase takes the first W, the odd the last W.
            both = F.conv2d(window[:, :, dy : dy + count + 1], weights[dy], bias, padding=(0, 1))
            for dx in (0, 1):
                out[:, :, dy::2, dx::2] = both[:, dx * channels : (dx + 1) * channels, :, dx : dx + width]
            del both
        return out

    return apply


def attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (1, heads, N, d) tensors, whatever computes it fastest."""
    if uses_blocks(query.dtype, query.device.type):
        return blocked_attention(query, keys, values)
    return F.scaled_dot_product_attention(query, keys, values)


def uses_blocks(dtype: torch.dtype, device_type: str) -> bool:
    """Only for bfloat16 on a CPU: there torch's fused kernel took 3.3 times as long (8192 tokens of 512 channels on a
    processor with bfloat16 products); in float32 it is as fast as plain products are.
    """
    return dtype == torch.bfloat16 and device_type == "cpu"


def blocked_attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same, a block of keys at a time, with the sums rescaled whenever a row's largest score grows.

    That is the online softmax of Milakov and Gimelshein (2018, arXiv 1805.02867). Sums and exponentials are float32.
    """
    mixed = torch.empty_like(query)
    blocks = (part.split(QUERY_BLOCK, dim=2) for part in (query, mixed))
    for queries, out in zip(*blocks, strict=True):
        total = torch.zeros(queries.shape, dtype=torch.float32)
        largest = torch.full((*queries.shape[:-1], 1), -torch.inf)
        weight = torch.zeros_like(largest)
        for k, v in zip(keys.split(KEY_BLOCK, dim=2), values.split(KEY_BLOCK, dim=2), strict=True):
            scores = (queries @ k.mT).float().mul_(query.shape[-1] ** -0.5)
            raised = torch.maximum(largest, scores.amax(-1, keepdim=True))
            shrunk = (largest - raised).exp_()
            scores.sub_(raised).exp_()
            weight.mul_(shrunk).add_(scores.sum(-1, keepdim=True))
            total.mul_(shrunk).add_(scores.to(v.dtype) @ v)
            largest = raised
            del scores  # before the next block's are there
        out.copy_(total.div_(weight))
    return mixed


def _phase(weight: Tensor, dim: int, odd: int) -> Tensor:
    """The two summed taps along `dim` that an even or odd output sees."""
    w0, w1, w2 = weight.unbind(dim)
    return torch.stack((w0 + w1, w2) if odd else (w0, w1 + w2), dim)


def _packed(weight: Tensor) -> Tensor:
    """Channels-last weights, so that no convolution call converts them again."""
    return weight.contiguous(memory_format=torch.channels_last)


def _empty_like(window: Tensor, channels: int, rows: int, width: int) -> Tensor:
    return torch.empty(
        (1, channels, rows, width),
        dtype=window.dtype,
        device=window.device,
        memory_format=torch.channels_last,
    )

"""Layers as streams of strips: the engine of the streamed VAE. Needs torch and nothing else.

A feature map is either *materialized* (`FeatureMap`: it lies in the arena) or *recomputed* (`Stream`: it is computed
each time it is read, as in activation checkpointing: Chen et al. 2016, arXiv 1604.06174). Both yield horizontal strips
(1, C, rows, W) from top to bottom, so layers compose lazily:

    convolve(x, conv1, norm1)      a Stream; nothing has run yet
    materialize(stream, target, rows)   runs it, strip by strip, writes it to the target and takes the statistics

Only a norm forces a pass over the whole map, since it needs the statistics of all rows before it can touch the first.

A stream reads ahead of what it yields, never behind. That is why a result may be written over the very map that it is
computed from. For the same reason no strip may be held across two steps of a loop: it may be a view of the arena.
Loops here yield expressions rather than names, because a name in a suspended generator would keep its strip alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from backend.vae.streamed.arena import Arena
from backend.vae.streamed.kernels import attention, conv3x3, upsampling_conv

CHANNELS_LAST = torch.channels_last


class Statistics:
    """Mean and variance per channel of a map, gathered from its strips."""

    def __init__(self) -> None:
        self._strips: list[tuple[int, Tensor, Tensor]] = []

    def update(self, strip: Tensor) -> None:
        """Add one strip (1, C, rows, W): two passes over rows that are still in the cache."""
        channels = strip.shape[1]
        if strip.device.type == "mps":  # has no batch_norm_update_stats
            variance, mean = torch.var_mean(strip.float(), dim=(0, 2, 3), correction=0)
        else:
            # Float32 buffers make the op return float32 statistics for half-precision strips too.
            unused = strip.new_zeros(channels, dtype=torch.float32)
            mean, variance = torch.batch_norm_update_stats(strip, unused, unused.clone(), 0.0)
        self._strips.append((strip.numel() // channels, mean, variance))

    def groups(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (C,) in float32, equal within each of the `count` groups.

        The strips are merged in float64 by the law of total variance, which is what Chan, Golub and LeVeque's
        pairwise update (1979) amounts to when all parts are at hand: var = E[var_i] + E[(mean_i - mean)^2].
        """
        means = torch.stack([mean for _, mean, _ in self._strips])
        variances = torch.stack([variance for _, _, variance in self._strips])
        device = means.device
        if device.type == "mps":  # has no float64
            means, variances = means.cpu(), variances.cpu()
        weights = torch.tensor([n for n, _, _ in self._strips], dtype=torch.float64, device=means.device)
        weights = (weights / weights.sum())[:, None, None]
        means = means.double().view(len(weights), count, -1)  # (strips, groups, channels in a group)
        variances = variances.double().view(len(weights), count, -1)
        mean = (weights * means).sum(0).mean(1, keepdim=True)
        variance = (weights * (variances + (means - mean) ** 2)).sum(0).mean(1, keepdim=True)
        size = means.shape[2]
        return tuple(v.expand(-1, size).flatten().float().to(device) for v in (mean, variance))  # type: ignore[return-value]


class StripSource(Protocol):
    """A feature map whose strips can be read: one in memory, or a stream that computes them."""

    channels: int
    height: int
    width: int
    statistics: Statistics

    def strips(self, rows: int) -> Iterator[Tensor]:
        """Consecutive strips (1, C, about `rows`, W) on the computing device, valid until the next is asked for."""
        ...

    def follow(self, rows: int) -> Callable[[int], Tensor]:
        """A function of n that returns the next n rows, (1, C, n, W), each time it is called."""
        ...


@dataclass
class FeatureMap:
    """A feature map that lies in memory: in the arena, or a picture or latents given from outside."""

    tensor: Tensor
    arena: Arena
    statistics: Statistics = field(default_factory=Statistics)

    def __post_init__(self) -> None:
        _, self.channels, self.height, self.width = self.tensor.shape

    def strips(self, rows: int) -> Iterator[Tensor]:
        # The first strip has one row more: a 3x3 convolution then yields strips of exactly `rows` rows each.
        edges = [0, *range(min(rows + 1, self.height), self.height, rows), self.height]
        yield from self.arena.load_all(self.tensor[:, :, a:b] for a, b in pairwise(edges))

    def follow(self, rows: int) -> Callable[[int], Tensor]:  # noqa: ARG002 - a map in memory can be read in any portions
        top = 0

        def read(count: int) -> Tensor:
            nonlocal top
            top += count
            return self.arena.load(self.tensor[:, :, top - count : top])

        return read

    def write(self, top: int, strip: Tensor) -> None:
        self.arena.store(strip, self.tensor[:, :, top : top + strip.shape[2]])


@dataclass
class Stream:
    """A feature map that is computed anew each time its strips are read."""

    channels: int
    height: int
    width: int
    strips: Callable[[int], Iterator[Tensor]]
    statistics: Statistics = field(default_factory=Statistics)

    def follow(self, rows: int) -> Callable[[int], Tensor]:
        strips = self.strips(rows)
        ready: list[Tensor] = []

        def read(count: int) -> Tensor:
            while sum(t.shape[2] for t in ready) < count:
                ready.append(next(strips))
            joined = ready[0] if len(ready) == 1 else torch.cat(ready, 2)
            ready[:] = [joined[:, :, count:]] if joined.shape[2] > count else []
            return joined[:, :, :count]

        return read


# ---- running a stream


def materialize(stream: Stream, target: FeatureMap, rows: int, *, with_statistics: bool = True) -> FeatureMap:
    """Run `stream`, write it into `target` and take its statistics. The target may be a map that it reads from."""
    top, statistics = 0, Statistics()
    for strip in stream.strips(rows):
        if with_statistics:
            statistics.update(strip)
        target.write(top, strip)
        top += strip.shape[2]
        del strip
    target.statistics = statistics
    return target


def gather_statistics(x: StripSource, rows: int) -> None:
    """Run a stream for its statistics alone, in strips of `rows`; no result is stored."""
    x.statistics = Statistics()
    for strip in x.strips(rows):
        x.statistics.update(strip)
        del strip


# ---- layers


def windows(x: StripSource, rows: int, norm: nn.GroupNorm | None = None, stride: int = 1) -> Iterator[Tensor]:
    """Yield the input rows that the next outputs of a 3x3 convolution need, as (1, C, n, W).

    With a norm, rows are normalised by the statistics of the whole map and go through SiLU. Rows shared with the next
    window are carried over, so each row is read and activated once. Beyond the map's edges there are zero rows, put in
    after the activation as the convolution's own padding would be: above and below for stride 1; below, and a zero
    column on the right, for stride 2 (diffusers' Downsample2D pads (0, 1, 0, 1)).
    """
    affine = None if norm is None else _affine(x, norm)
    above, right = (1, 0) if stride == 1 else (0, 1)
    buffer: Tensor | None = None
    held, unread = above, x.height
    for strip in x.strips(rows):
        count = strip.shape[2]
        unread -= count
        needed = held + count + (unread == 0)
        if buffer is None:
            buffer = _window(strip, max(needed, min(rows, x.height) + 3), x.width + right)
        elif buffer.shape[2] < needed:  # streams may yield a strip or two of more than `rows`
            taller = _window(strip, needed, x.width + right)
            taller[:, :, :held] = buffer[:, :, :held]
            buffer = taller
            del taller
        _activate(strip, affine, buffer[:, :, held : held + count, : x.width])
        del strip
        if unread == 0:
            buffer[:, :, needed - 1].zero_()
        held = needed
        outputs = (held - 3) // stride + 1
        if outputs > 0:
            yield buffer[:, :, : (outputs - 1) * stride + 3]
            used = outputs * stride
            buffer[:, :, : held - used] = buffer[:, :, used:held].clone()
            held -= used


def convolve(x: StripSource, conv: nn.Conv2d, norm: nn.GroupNorm | None = None) -> Stream:
    """conv(silu(norm(x))), or conv(x), for a 3x3 convolution with padding 1."""

    def strips(rows: int) -> Iterator[Tensor]:
        apply = conv3x3(conv)
        for window in windows(x, rows, norm):
            yield apply(window)

    return Stream(conv.out_channels, x.height, x.width, strips)


def upsample(x: StripSource, conv: nn.Conv2d) -> Stream:
    """conv(nearest x2 of x) without the upsampled map; see `kernels.upsampling_conv`."""

    def strips(rows: int) -> Iterator[Tensor]:
        apply = upsampling_conv(conv)
        for window in windows(x, max(1, rows // 2)):
            yield apply(window)

    return Stream(conv.out_channels, 2 * x.height, 2 * x.width, strips)


def downsample(x: StripSource, conv: nn.Conv2d) -> Stream:
    """3x3 convolution of stride 2, padded on the right and at the bottom only."""

    def strips(rows: int) -> Iterator[Tensor]:
        weight = conv.weight.contiguous(memory_format=CHANNELS_LAST)
        for window in windows(x, 2 * rows, stride=2):
            yield F.conv2d(window, weight, conv.bias, stride=2)

    return Stream(conv.out_channels, x.height // 2, x.width // 2, strips)


def add(y: Stream, x: StripSource, shortcut: nn.Conv2d | None = None) -> Stream:
    """y + x, or y + shortcut(x) with a 1x1 convolution."""

    def strips(rows: int) -> Iterator[Tensor]:
        following = x.follow(rows)
        for strip in y.strips(rows):
            rest = following(strip.shape[2])
            yield strip.add_(rest if shortcut is None else shortcut(rest))
            del strip, rest

    return Stream(y.channels, y.height, y.width, strips)


def split(
    x: FeatureMap,
    conv: nn.Conv2d,
    norm: nn.GroupNorm,
    shortcut: nn.Conv2d,
    rows: int,
    targets: tuple[FeatureMap, FeatureMap],
) -> None:
    """Write conv(silu(norm(x))) and shortcut(x) into `targets`. They may share x's memory: x is read once for both."""
    hidden, short = targets
    hidden.statistics = Statistics()
    following, top = x.follow(rows), 0
    for strip in convolve(x, conv, norm).strips(rows):
        rest = shortcut(following(strip.shape[2]))
        hidden.statistics.update(strip)
        hidden.write(top, strip)
        short.write(top, rest)
        top += strip.shape[2]
        del strip, rest


def copy(x: StripSource) -> Stream:
    """x as strips of their own memory, so that the result may be written over x."""

    def strips(rows: int) -> Iterator[Tensor]:
        for strip in x.strips(rows):
            yield strip.clone(memory_format=CHANNELS_LAST)
            del strip

    return Stream(x.channels, x.height, x.width, strips)


def attend(x: FeatureMap, layer: Any, keys: FeatureMap, values: FeatureMap, rows: int) -> Stream:
    """x + attention(norm(x)) over all pixels: keys and values of the whole map first, then queries strip by strip.

    `layer` is diffusers' Attention in its VAE form; `keys` and `values` are maps of x's size to fill.
    """
    affine = _affine(x, layer.group_norm)
    top = 0
    for strip in x.strips(rows):
        normed = _tokens(F.batch_norm(_dense(strip), *affine))
        for project, target in ((layer.to_k, keys), (layer.to_v, values)):
            target.write(top, _untokens(project(normed), strip.shape))
        top += strip.shape[2]
        del strip

    def heads(tokens: Tensor) -> Tensor:  # (N, C) to (1, heads, N, C / heads)
        return tokens.view(1, len(tokens), layer.heads, -1).transpose(1, 2)

    def strips(rows: int) -> Iterator[Tensor]:
        k, v = (heads(_tokens(m.arena.load(m.tensor))) for m in (keys, values))
        for strip in x.strips(rows):
            query = heads(layer.to_q(_tokens(F.batch_norm(_dense(strip), *affine))))
            mixed = attention(query, k, v).transpose(1, 2).flatten(2)[0]
            yield _untokens(layer.to_out[0](mixed), strip.shape).add_(strip)
            del strip, query, mixed

    return Stream(x.channels, x.height, x.width, strips)


# ---- helpers


def _affine(x: StripSource, norm: nn.GroupNorm) -> tuple[Any, ...]:
    """The arguments after the input that make F.batch_norm apply `norm` with the statistics of the whole of x.

    Batch norm in evaluation mode is x * scale + shift per channel, and unlike a product of tensors it takes float32
    statistics with half-precision input.
    """
    mean, variance = x.statistics.groups(norm.num_groups)
    return mean, variance, norm.weight.float(), norm.bias.float(), False, 0.0, norm.eps


def _window(like: Tensor, rows: int, width: int) -> Tensor:
    shape = (1, like.shape[1], rows, width)
    window = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=CHANNELS_LAST)
    window[:, :, 0].zero_()  # the row above the map, for stride 1
    window[:, :, :, -1].zero_()  # the column on the right, for stride 2
    return window


def _activate(strip: Tensor, affine: tuple[Any, ...] | None, out: Tensor) -> None:
    if affine is None:
        out.copy_(strip)
    else:
        torch.ops.aten.silu.out(F.batch_norm(_dense(strip), *affine), out=out)


def _dense(strip: Tensor) -> Tensor:
    """`strip` itself, or a copy if its pixels are not next to each other in memory."""
    return strip.contiguous(memory_format=CHANNELS_LAST)


def _tokens(strip: Tensor) -> Tensor:
    """(1, C, rows, W) to (rows * W, C), a view."""
    return strip.permute(0, 2, 3, 1).flatten(0, 2)


def _untokens(tokens: Tensor, shape: torch.Size) -> Tensor:
    """(rows * W, C) to (1, C, rows, W), a channels-last view."""
    _, channels, rows, width = shape
    return tokens.view(1, rows, width, channels).permute(0, 3, 1, 2)

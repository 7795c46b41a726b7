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
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from backend.vae.streamed.arena import Arena
from backend.vae.streamed.kernels import (
    attention,
    conv3x3,
    map_conv3x3,
    map_upsampling_conv,
    upsampling_conv,
)
from backend.vae.streamed.statistics import RunConstants, Statistics

CHANNELS_LAST = torch.channels_last

AT_ONCE_ELEMENTS = 1 << 30
"""Of a map, for one call of a statistics kernel: CUDA's count in 32-bit integers."""


class StripSource(Protocol):
    """A feature map whose strips can be read: one in memory, or a stream that computes them."""

    channels: int
    height: int
    width: int
    statistics: Statistics | None

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
    statistics: Statistics | None = None

    def __post_init__(self) -> None:
        _, self.channels, self.height, self.width = self.tensor.shape
        self.here = self.arena.is_here(self.tensor)
        """On the computing device, not in host memory."""
        self.dense = self.tensor.is_contiguous(memory_format=CHANNELS_LAST)

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

    def write(self, top: int, strip: Tensor, rest: Tensor | None = None) -> Tensor:
        """Write `strip`, or the sum of both, at row `top`; returns rows with the written values, dense and on the
        computing device. `rest` may be the very rows that are written."""
        view = self.tensor[:, :, top : top + strip.shape[2]]
        if rest is not None and self.here and self.dense:
            return torch.add(strip, rest, out=view)
        if rest is not None:
            strip.add_(rest)
        self.arena.store(strip, view)
        return strip


@dataclass
class Stream:
    """A feature map that is computed anew each time its strips are read."""

    channels: int
    height: int
    width: int
    strips: Callable[[int], Iterator[Tensor]]
    statistics: Statistics | None = None

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


def materialize(
    stream: Stream,
    target: FeatureMap,
    rows: int,
    residual: StripSource | None = None,
    shortcut: nn.Conv2d | None = None,
    *,
    with_statistics: bool = True,
) -> FeatureMap:
    """Run `stream`, plus `residual` or its 1x1 convolution, into `target`, and take the sum's statistics.

    The target may be a map that either reads from.
    """
    top, statistics = 0, Statistics(target.arena.constants)
    following = None if residual is None else residual.follow(rows)
    # On a processor a strip is still in the cache. For a GPU's cache it is too large, and one call costs less.
    # MPS has no kernel that does it without a copy in float32.
    at_once = target.here and target.dense and target.tensor.device.type not in ("cpu", "mps")
    for strip in stream.strips(rows):
        rest = None if following is None else following(strip.shape[2])
        if rest is not None and shortcut is not None:
            rest = shortcut(rest)
        strip = target.write(top, strip, rest)
        del rest
        if with_statistics and not at_once:
            statistics.update(strip)
        top += strip.shape[2]
        del strip
    if with_statistics and at_once:
        for part in target.tensor.split(max(1, AT_ONCE_ELEMENTS // (target.channels * target.width)), dim=2):
            statistics.update(part)
    target.statistics = statistics
    return target


def compute_once(stream: Stream, rows: int, constants: RunConstants) -> Stream:
    """Run a stream that is one strip, and take its statistics; what is returned yields that strip, a single time."""
    statistics = Statistics(constants)
    held = list(stream.strips(rows))
    statistics.update(held[0])
    return Stream(
        stream.channels, stream.height, stream.width, lambda _: iter((held.pop(),)), statistics=statistics
    )


def gather_statistics(x: StripSource, rows: int, constants: RunConstants) -> None:
    """Run a stream for its statistics alone, in strips of `rows`; no result is stored."""
    statistics = Statistics(constants)
    for strip in x.strips(rows):
        statistics.update(strip)
        del strip
    x.statistics = statistics


# ---- layers


def windows(x: StripSource, rows: int, norm: nn.GroupNorm | None = None, stride: int = 1) -> Iterator[Tensor]:
    """Yield the input rows that the next outputs of a 3x3 convolution need, as (1, C, n, W).

    With a norm, rows are normalised by the statistics of the whole map and go through SiLU. Rows shared with the next
    window are carried over, so each row is read and activated once. Beyond the map's edges there are zero rows, put in
    after the activation as the convolution's own padding would be: above and below for stride 1; below, and a zero
    column on the right, for stride 2 (diffusers' Downsample2D pads (0, 1, 0, 1)).
    """
    affine = None if norm is None else _affine(x, norm)
    above = 1 if stride == 1 else 0
    buffer: Tensor | None = None
    held, unread = above, x.height
    for strip in x.strips(rows):
        count = strip.shape[2]
        unread -= count
        needed = held + count + (unread == 0)
        if buffer is None:
            buffer = _window(strip, max(needed, min(rows, x.height) + 3), x.width, stride)
        elif buffer.shape[2] < needed:  # streams may yield a strip or two of more than `rows`
            taller = _window(strip, needed, x.width, stride)
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
            if unread:
                kept = buffer[:, :, used:held]
                buffer[:, :, : held - used] = kept if used >= held - used else kept.clone()
            held -= used


def convolve(x: StripSource, conv: nn.Conv2d, norm: nn.GroupNorm | None = None) -> Stream:
    """conv(silu(norm(x))), or conv(x), for a 3x3 convolution with padding 1."""

    def strips(rows: int) -> Iterator[Tensor]:
        at_once = map_conv3x3(conv) if rows >= x.height else None
        if at_once is not None:
            yield at_once(_only_strip(x, norm))
            return
        apply = conv3x3(conv)
        for window in windows(x, rows, norm):
            yield apply(window)

    return Stream(conv.out_channels, x.height, x.width, strips)


def upsample(x: StripSource, conv: nn.Conv2d) -> Stream:
    """conv(nearest x2 of x) without the upsampled map; see `kernels.upsampling_conv`."""

    def strips(rows: int) -> Iterator[Tensor]:
        at_once = map_upsampling_conv(conv) if rows >= 2 * x.height else None
        if at_once is not None:
            yield at_once(_only_strip(x))
            return
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
    statistics = Statistics(hidden.arena.constants)
    following, top = x.follow(rows), 0
    for strip in convolve(x, conv, norm).strips(rows):
        rest = shortcut(following(strip.shape[2]))
        statistics.update(strip)
        hidden.write(top, strip)
        short.write(top, rest)
        top += strip.shape[2]
        del strip, rest
    hidden.statistics = statistics


def copy(x: StripSource) -> Stream:
    """x as strips of their own memory, so that the result may be written over x."""

    def strips(rows: int) -> Iterator[Tensor]:
        for strip in x.strips(rows):
            yield strip.clone(memory_format=CHANNELS_LAST)
            del strip

    return Stream(x.channels, x.height, x.width, strips)


def attend(x: FeatureMap, layer: Any, keys: FeatureMap, values: FeatureMap, rows: int) -> Stream:
    """attention(norm(x)) over all pixels: keys and values of the whole map first, then queries strip by strip.

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
            yield _untokens(layer.to_out[0](mixed), strip.shape)
            del strip, query, mixed

    return Stream(x.channels, x.height, x.width, strips)


# ---- helpers


def _affine(x: StripSource, norm: nn.GroupNorm) -> tuple[Any, ...]:
    """The arguments after the input that make F.batch_norm apply `norm` with the statistics of the whole of x.

    Batch norm in evaluation mode is x * scale + shift per channel, and unlike a product of tensors it takes float32
    statistics with half-precision input.
    """
    assert x.statistics is not None, "the step that made x takes them"
    mean, variance = x.statistics.groups(norm.num_groups)
    return mean, variance, *x.statistics.constants.affine(norm), False, 0.0, norm.eps


def _only_strip(x: StripSource, norm: nn.GroupNorm | None = None) -> Tensor:
    """silu(norm(x)), or x, of a map that is no taller than a strip."""
    affine = None if norm is None else _affine(x, norm)
    (strip,) = x.strips(x.height)
    if affine is None:
        return _dense(strip)
    return F.silu(F.batch_norm(_dense(strip), *affine), inplace=True)


def _window(like: Tensor, rows: int, width: int, stride: int) -> Tensor:
    shape = (1, like.shape[1], rows, width if stride == 1 else width + 1)
    window = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=CHANNELS_LAST)
    beyond = (
        window[:, :, 0] if stride == 1 else window[:, :, :, -1]
    )  # the row above the map, the column on the right
    beyond.zero_()
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

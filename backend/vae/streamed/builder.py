"""Where each map of a streamed run lies and what its strips take: one pass over the module tree, for shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from backend.report import Direction
from backend.vae.streamed.arena import Slot
from backend.vae.streamed.kernels import KEY_BLOCK, QUERY_BLOCK, uses_blocks, uses_phases, uses_winograd
from backend.vae.streamed.steps import Kind, Step, StripPlan

CPU_QUERIES = 1 << 10
GPU_QUERIES = 8 << 10
"""Queries of one attention call: enough for a kernel that gives each block of some 64 queries to one multiprocessor.
Where torch has no fused kernel for a device, the call also takes this many rows of attention weights."""
_SMALL_INPUT = 20_480
"""Values; torch's own limit."""


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that reading a map strip by strip takes: `strip` for the one returned, `held` between two strips, and
    `peak` while one is computed, itself included."""

    strip: int = 0
    held: int = 0
    peak: int = 0
    dense: bool = True
    """Whether strips can be used as they are; otherwise a norm or a 1x1 convolution copies them first."""


class PlanBuilder:
    """Walks the module and appends a step for each layer; keeps track of the slot that the live map lies in."""

    def __init__(
        self,
        module: Any,
        direction: Direction,
        dtype: torch.dtype,
        device_type: str,
        strip_bytes: int,
        *,
        host: bool,
        recompute: bool,
    ) -> None:
        self.module = module
        self.direction = direction
        self.dtype = dtype
        self.device_type = device_type
        self.strip_bytes = strip_bytes
        self.host = host
        self.recompute = recompute
        self.factor = 2 ** (len(list(module.encoder.down_blocks)) - 1)
        self.height = self.width = self.channels = 0  # of the present map
        self.stream = MemoryUse()  # of the present map while it is a stream
        self.steps: list[Step] = []
        self.size = 0
        self.live: Slot | None = None
        """The map that the next layer reads; None while it is a stream that is not materialized."""
        self.base: Slot | None = None
        """The map that such a stream is computed from."""
        self.spare: Slot | None = None
        """A free slot of the live map's size, interleaved with it; a narrowing resnet leaves one."""

    def plan(self, batch: int, height: int, width: int) -> StripPlan:
        if self.direction == "encode":
            self._encoder(self.module.encoder, height, width)
        else:
            self._decoder(self.module.decoder, height // self.factor, width // self.factor)
        channels = self.steps[-1].layer.conv_out.out_channels
        return StripPlan(
            direction=self.direction,
            batch=batch,
            height=height,
            width=width,
            dtype=self.dtype,
            device_type=self.device_type,
            host=self.host,
            recompute=self.recompute,
            strip_target=self.strip_bytes,
            steps=tuple(self.steps),
            arena_elements=self.size,
            output_size=(self.height, self.width),
            output_bytes=batch * channels * self.height * self.width * self.dtype.itemsize,
            constant_bytes=_constant_bytes(self.steps),
        )

    def _encoder(self, encoder: Any, height: int, width: int) -> None:
        self._conv_in(encoder.conv_in, height, width)
        for level, block in enumerate(encoder.down_blocks):
            for resnet in block.resnets:
                self._resnet(resnet, finest=level == 0)
            for layer in block.downsamplers or ():
                self._downsample(layer.conv)
        self._mid(encoder.mid_block)
        self._conv_out(encoder)

    def _decoder(self, decoder: Any, height: int, width: int) -> None:
        self._conv_in(decoder.conv_in, height, width)
        self._mid(decoder.mid_block)
        last = len(decoder.up_blocks) - 1
        for level, block in enumerate(decoder.up_blocks):
            for resnet in block.resnets:
                self._resnet(resnet, finest=level == last)
            for layer in block.upsamplers or ():
                self._upsample(layer.conv, to_finest=level + 1 == last)
        self._conv_out(decoder)

    def _mid(self, block: Any) -> None:
        self._resnet(block.resnets[0], finest=False)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=False):
            if attention is not None:
                self._attention(attention)
            self._resnet(resnet, finest=False)

    # ---- one method a layer: choose slots, then append the step

    def _conv_in(self, conv: nn.Conv2d, height: int, width: int) -> None:
        self.height, self.width, self.channels = height, width, conv.out_channels
        rows = self._rows(conv.out_channels)
        result = self._convolve(MemoryUse(dense=False), conv, rows, normed=False)
        if self.direction == "decode" and self.factor > 1:
            # A small map, and the arena has room for those after it.
            target = self._allocate(conv.out_channels)
            self._append("conv_in", conv, rows, result.peak, target=target)
            self._set_live(target)
        else:  # so few input channels that recomputing it is cheaper than keeping it
            self.stream = result
            self._append("conv_in", conv, rows, result.peak)

    def _resnet(self, resnet: Any, *, finest: bool) -> None:
        source, inside, outside = self.live, resnet.conv1.out_channels, resnet.conv2.out_channels
        rows = self._rows(max(self.channels, inside, outside))
        x = self._read(source, rows)
        kind: Kind = "resnet"
        hidden: Slot | None = None
        in_one_strip = rows >= self.height and not self._uses_winograd(resnet.conv1)
        if source is None and in_one_strip:
            target = self._allocate(outside)
        elif source is None:
            hidden = target = self._allocate(inside)
        elif resnet.conv_shortcut is None:
            target = source
            if not (in_one_strip or (self.recompute and finest)):
                hidden = self.spare or self._allocate(inside)
        elif 2 * inside <= source.channels and not self.host:
            # Narrowing: each pixel's channels are replaced by [hidden | shortcut], so no further map is needed.
            # Not in host memory: there is room, and copies must be of whole rows to be fast.
            kind = "split_resnet"
            hidden = replace(source, channels=inside)
            target = replace(hidden, offset=source.offset + inside)
        elif in_one_strip:
            target = self._allocate(outside)
        else:
            hidden = target = self._allocate(inside)
        first = self._convolve(x, resnet.conv1, rows)
        in_one_strip = in_one_strip and hidden is None
        if kind == "split_resnet":
            first = self._add(first, x, rows, outside)
            second = self._convolve(self._read(hidden, rows), resnet.conv2, rows)
        else:
            second = self._convolve(first if hidden is None else self._read(hidden, rows), resnet.conv2, rows)
            second = self._add(second, x, rows, outside if resnet.conv_shortcut is not None else 0)
        slots: dict[str, Any] = {"target": target, "hidden": hidden, "in_one_strip": in_one_strip}
        self._append(kind, resnet, rows, max(first.peak, second.peak), **slots)
        self.spare = hidden if kind == "split_resnet" else self.spare if target is source else None
        self._set_live(target)

    def _attention(self, layer: Any) -> None:
        source = self.live
        assert source is not None
        row = self._row(self.channels)
        queries = CPU_QUERIES if self.device_type == "cpu" else GPU_QUERIES
        rows = max(1, min(self._rows(self.channels), queries // self.width))
        strip = (rows + 1) * row
        # Query and mixed beside the kernel's own buffers; later mixed and result, with query and strip not yet freed.
        workspace = max(2 * strip + self._attention_bytes(rows * self.width, layer.heads), 4 * strip)
        if self.host:
            keys_values = None
            workspace += strip + 2 * self.height * row
        else:
            keys = self._allocate(self.channels)
            keys_values = (keys, self._allocate(self.channels, beside=keys))
        self._append("attention", layer, rows, workspace, target=source, keys_values=keys_values)

    def _downsample(self, conv: nn.Conv2d) -> None:
        source = self.live
        assert source is not None
        input_row = self._row(self.channels)
        self.height, self.width = self.height // 2, self.width // 2
        # In place: row r is written after row 2r + 2 has been read.
        target = Slot(source.offset, self.channels, self.height, self.width, self.channels)
        rows = self._rows(2 * self.channels)
        weights = 2 * conv.weight.numel() * self.dtype.itemsize
        workspace = weights + (2 * rows + 3) * input_row + (rows + 1) * self._row(self.channels)
        self._append("downsample", conv, rows, workspace, target=target)
        self._set_live(target)

    def _upsample(self, conv: nn.Conv2d, *, to_finest: bool) -> None:
        source = self.live
        assert source is not None
        size = source.elements
        recomputed = self.recompute and to_finest
        if recomputed:
            start = 0
        else:
            # The result is written from the arena's front over the source at its tail. With h source rows of n
            # elements: when row r has been read, at most 4 (r - 1) n elements are written, and the next row to be
            # read lies at (3h + r) n or later.
            start = max(4 * size, source.end + size) - size
        moved = Slot(start, self.channels, self.height, self.width, self.channels)
        if source.pitch > self.channels or (source.offset > 0 if recomputed else source.offset < 3 * size):
            rows = self._rows(self.channels)
            self._append("move", None, rows, (rows + 1) * self._row(self.channels), target=moved)
        else:
            moved = source
        self._set_live(moved)
        self.height, self.width = 2 * self.height, 2 * self.width
        rows = self._rows(self.channels)
        unit = self._row(self.channels)  # of the result; a row of the source is half as long
        weights = conv.weight.numel() * self.dtype.itemsize
        held = (rows // 2 + 3) * unit // 2
        if uses_phases(self.dtype):
            held += weights * 16 // 9
            beside = (rows // 2 + 1) * unit + weights * 8 // 9
        else:
            held += weights
            beside = (rows + 6) * unit + weights
        strip = (rows + 2) * unit
        result = MemoryUse(strip, held, held + strip + beside)
        if rows >= self.height and not uses_phases(self.dtype):
            loaded = self._read(moved, rows).strip
            result = MemoryUse(strip, 0, max(loaded + strip, 2 * strip + weights))
        if recomputed:
            self.stream = result
            self._append("upsample", conv, rows, result.peak)
            self.live = None
        else:
            target = Slot(0, self.channels, self.height, self.width, self.channels)
            self._append("upsample", conv, rows, result.peak, target=target)
            self._set_live(target)

    def _conv_out(self, net: Any) -> None:
        rows = self._rows(self.channels)
        image = self._convolve(self._read(self.live, rows), net.conv_out, rows)
        self._append("conv_out", net, rows, image.peak)

    # ---- arithmetic

    def _append(self, kind: Kind, layer: Any, rows: int, workspace: int, **slots: Any) -> None:
        self.steps.append(Step(kind, layer, rows, workspace, source=self.live, **slots))
        pair = slots.get("keys_values") or ()
        for slot in (slots.get("target"), slots.get("hidden"), *pair):
            if slot is not None:
                self.size = max(self.size, slot.end)

    def _set_live(self, slot: Slot) -> None:
        if slot is not self.live:
            self.live = self.base = slot
        self.channels = slot.channels
        if slot.pitch == slot.channels:
            self.spare = None

    def _allocate(self, channels: int, beside: Slot | None = None) -> Slot:
        """Room for one more map of the present size: as high as possible, so that what comes later finds the front
        free; the arena grows only if there is none."""
        need = channels * self.height * self.width
        taken = [slot for slot in (self.base, beside) if slot is not None]
        low = min((slot.offset for slot in taken), default=self.size)
        high = max((slot.end for slot in taken), default=0)
        if self.size - high >= need:
            start = self.size - need
        elif low >= need:
            start = 0
        else:
            start = high
        return Slot(start, channels, self.height, self.width, channels)

    def _rows(self, channels: int) -> int:
        """Height of strips of at most `strip_bytes`, all about equal; even, since rows are computed in pairs."""
        max_rows = max(1, self.strip_bytes // (self.width * channels * self.dtype.itemsize))
        rows = -(-self.height // -(-self.height // max_rows))
        return rows if rows == 1 else rows + rows % 2

    def _row(self, channels: int) -> int:
        return self.width * channels * self.dtype.itemsize

    def _read(self, slot: Slot | None, rows: int) -> MemoryUse:
        """What `FeatureMap.strips` takes, or the present stream's."""
        if slot is None:
            return self.stream
        coming = 2 * (rows + 1) * self._row(slot.channels) if self.host else 0  # this strip and the next
        return MemoryUse(coming, 0, coming, dense=slot.pitch == slot.channels)

    def _convolve(self, x: MemoryUse, conv: nn.Conv2d, rows: int, *, normed: bool = True) -> MemoryUse:
        """What `strips.convolve` takes: first rows are normalised into a window, then the window is convolved."""
        if rows >= self.height and not self._uses_winograd(conv):
            return self._convolve_at_once(x, conv, normed=normed)
        taller = min(rows, self.height) + 1  # the first and the last strip may have a row more
        window = (taller + 2) * self._row(conv.in_channels)
        normalised = taller * self._row(conv.in_channels) * (0 if not normed else 1 if x.dense else 2)
        out = taller * self._row(conv.out_channels)
        weights = conv.weight.numel() * self.dtype.itemsize
        scratch = weights  # the library rearranges them for each call
        if self._uses_winograd(conv):
            halves = self._row(conv.in_channels) + self._row(conv.out_channels)
            scratch = weights // 3 + taller * halves // 2
            weights = weights * 7 // 3
        held = x.held + weights + window
        peak = max(weights + window + x.peak, held + x.strip + normalised, held + out + scratch)
        return MemoryUse(out, held, peak)

    def _uses_winograd(self, conv: nn.Conv2d) -> bool:
        return uses_winograd(conv, self.dtype, self.device_type)

    def _convolve_at_once(self, x: MemoryUse, conv: nn.Conv2d, *, normed: bool) -> MemoryUse:
        """The same for a map that is one strip: it is activated, then convolved, with no window between."""
        given, out = self.height * self._row(conv.in_channels), self.height * self._row(conv.out_channels)
        made = given * (int(normed) + int(not x.dense))
        # Weights rearranged, and once more for the library; or neighbourhoods.
        scratch = self._neighbourhoods(conv) or 2 * conv.weight.numel() * self.dtype.itemsize
        peak = max(x.peak, x.held + x.strip + made, (given if made else x.strip) + out + scratch)
        return MemoryUse(out, 0, peak)

    def _neighbourhoods(self, conv: nn.Conv2d) -> int:
        """Bytes of each pixel's neighbourhood, which torch writes out for small float32 inputs on a CPU instead of
        calling its library (`use_mkldnn` in ATen/native/Convolution.cpp).
        """
        values = conv.in_channels * self.height * self.width
        small = self.device_type == "cpu" and self.dtype == torch.float32 and values <= _SMALL_INPUT
        return values * math.prod(conv.kernel_size) * self.dtype.itemsize if small else 0

    def _attention_bytes(self, queries: int, heads: int) -> int:
        """What the attention allocates on a CPU beside query and result: the float32 scores and sums of one block of
        queries and a rounded copy of the scores in half precision, with torch's fused kernel for each thread
        (ATen/native/cpu/FlashAttentionKernel.cpp).
        """
        if self.device_type != "cpu":
            return 0
        if uses_blocks(self.dtype, self.device_type):
            block = min(QUERY_BLOCK, queries)
            scores = 6 * heads * min(KEY_BLOCK, self.height * self.width)
            return block * (scores + 6 * self.channels)
        block = 256 if queries >= 768 else 64 if queries >= 192 else 32
        keys = min(512, self.height * self.width)
        scores = block * keys * (4 if self.dtype == torch.float32 else 6)
        return torch.get_num_threads() * (scores + 4 * block * (self.channels // heads + 2))

    def _add(self, y: MemoryUse, x: MemoryUse, rows: int, shortcut_channels: int) -> MemoryUse:
        """What `strips.add` takes: a strip of y is there while the same rows of x are read and perhaps convolved."""
        short = (rows + 1) * self._row(shortcut_channels)
        # Strips of a stream are joined to fit, unless it is one.
        following = x.peak if rows >= self.height else x.peak + x.strip
        dense = 0 if x.dense or not shortcut_channels else (rows + 1) * self._row(self.channels)
        beside = max(following, x.held + x.strip + dense + short)
        return MemoryUse(y.strip, y.held + x.held, max(y.peak + x.held, y.held + y.strip + beside))


def _constant_bytes(steps: Sequence[Step]) -> int:
    """Of `RunConstants`: a matrix for each number of channels that is normed, and the norms in float32."""
    norms = [norm for step in steps for norm in step.norms]
    matrices = {(norm.num_channels, norm.num_groups): 2 * norm.num_channels**2 for norm in norms}
    return 4 * (sum(matrices.values()) + 2 * sum(norm.num_channels for norm in norms))

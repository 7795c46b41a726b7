"""The one buffer that all feature maps of a run lie in, on the computing device or in host memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.device.measure import empty_pinned_cache
from backend.vae.streamed.statistics import RunConstants


@dataclass(frozen=True)
class Slot:
    """Where a map lies in the arena, channels last; all figures in elements."""

    offset: int
    channels: int
    height: int
    width: int
    pitch: int
    """From one pixel to the next: `channels`, or more where two maps share the memory of a wider one."""

    @property
    def end(self) -> int:
        return self.offset + (self.height * self.width - 1) * self.pitch + self.channels

    @property
    def elements(self) -> int:
        return self.channels * self.height * self.width


class Arena:
    """A flat buffer of `size` elements with maps as views of it.

    With `host` the buffer is in (pinned) host memory: `load` copies a strip to the device, `store` copies one back.
    Otherwise `load` returns the view itself. A CPU device with `host` makes the same copies, so that the path can be
    tested without a GPU.
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        host: bool = False,
        norms: Sequence[nn.GroupNorm] = (),
    ) -> None:
        """`norms` are those that will be applied to its maps."""
        pinned = host and device.type == "cuda"
        buffer_device = torch.device("cpu") if host else device
        self.buffer = torch.empty(size, dtype=dtype, device=buffer_device, pin_memory=pinned)
        self._device = device
        self._host = host
        self._copies = HostCopies(device) if pinned else None
        self.constants = RunConstants(device, norms)

    def release(self) -> None:
        """Give the buffer back, once nothing else holds a view of it; host memory to the system."""
        if self._copies is not None:
            self._copies.finish()
        del self.buffer
        if self._host:
            empty_pinned_cache(self._device)

    def view(self, slot: Slot) -> Tensor:
        """The map (1, C, H, W) at `slot`."""
        shape = (1, slot.channels, slot.height, slot.width)
        row = slot.pitch * slot.width
        return self.buffer.as_strided(shape, (row * slot.height, 1, row, slot.pitch), slot.offset)

    def is_here(self, view: Tensor) -> bool:
        """Whether `view` lies on the computing device, or at least where its values are used as they lie."""
        return not self._host or view.device.type != "cpu"

    def load(self, view: Tensor) -> Tensor:
        """The values of `view` on the device; the view itself if they are there already."""
        if self.is_here(view):
            return view
        if self._copies is None:
            return view.to(self._device, copy=True)
        return self._copies.wait_for(*self._copies.fetch(view))

    def load_all(self, views: Iterable[Tensor]) -> Iterator[Tensor]:
        """`load` for one view after another; from host memory the next one is copied while this one is used."""
        if self._copies is None:
            for view in views:
                yield self.load(view)
            return
        waiting: tuple[Tensor, torch.cuda.Event | None] | None = None
        for view in views:
            coming = self._copies.fetch(view) if view.device.type == "cpu" else (view, None)
            if waiting is not None:
                yield self._copies.wait_for(*waiting)
            waiting = coming
        if waiting is not None:
            yield self._copies.wait_for(*waiting)

    def store(self, strip: Tensor, view: Tensor) -> None:
        """Write `strip` into `view`."""
        if self._copies is None or view.device.type != "cpu":
            view.copy_(strip)
        else:
            self._copies.store(strip, view)


class HostCopies:
    """Copies between pinned memory and a GPU beside the computation, one CUDA stream each way.

    A fetch waits for the stores before it. It need not wait for the computation: strips are only ever fetched ahead
    of the rows that are written. At most two stores are left unfinished, so that the host cannot queue up strips
    faster than the GPU frees them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._to_device = torch.cuda.Stream(device)
        self._to_host = torch.cuda.Stream(device)
        self._stores: deque[torch.cuda.Event] = deque()

    def finish(self) -> None:
        """Wait for all copies."""
        self._to_device.synchronize()
        self._to_host.synchronize()

    def fetch(self, view: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Start copying `view` to the GPU; the event is recorded when it is there."""
        with torch.cuda.stream(self._to_device):
            if self._stores:
                self._to_device.wait_event(self._stores[-1])
            strip = view.to(self._device, non_blocking=True)
            event = self._to_device.record_event()
        strip.record_stream(torch.cuda.current_stream(self._device))
        return strip, event

    def wait_for(self, strip: Tensor, event: torch.cuda.Event | None) -> Tensor:
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)
        return strip

    def store(self, strip: Tensor, view: Tensor) -> None:
        self._to_host.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._to_host):
            view.copy_(strip, non_blocking=True)
            self._stores.append(self._to_host.record_event())
        strip.record_stream(self._to_host)
        if len(self._stores) > 2:
            self._stores.popleft().synchronize()

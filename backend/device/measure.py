"""Seconds and peak memory of a piece of work.

The peak is of what torch's allocator handed out. On CUDA that is all it holds on the GPU, as in the published tables,
with what was there before the work as the baseline; on a processor, where torch keeps no such sum, only what the work
itself allocated on its thread, labelled RAM. Elsewhere it is unknown.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from backend.device.allocations import measure_allocations
from backend.message import Message, literal
from backend.report import Cost, MemoryKind

if TYPE_CHECKING:
    import torch

SAFE_SHARE = 0.85
"""Of the free memory: a forecast from shapes does not know the library's workspace."""


def memory_kind(device: torch.device) -> MemoryKind:
    """What is measured on that device."""
    return "VRAM" if device.type == "cuda" else "RAM"


class Meter:
    """`with Meter(device) as meter: work()`; afterwards `meter.cost` holds what it took, also after an error.

    On a processor only the memory counts that the thread allocates which is inside. There it costs a few microseconds
    an allocation: see `benchmarks.meter`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        kinds: dict[str, type[_VramPeak | _RamPeak]] = {"cuda": _VramPeak, "cpu": _RamPeak}
        self._memory = kinds.get(device.type, _UnknownPeak)(device)
        self._cost: Cost | None = None

    @property
    def cost(self) -> Cost:
        assert self._cost is not None, "the work has not ended yet"
        return self._cost

    def begin_steps(self) -> None:
        """To be called before many like steps of the work, such as a denoising's."""
        self._memory.begin_steps()

    def end_step(self) -> None:
        """To be called after each of them: once they repeat each other, the peak need not be looked for again."""
        self._memory.end_step()

    def __enter__(self) -> Meter:
        synchronise(self.device)
        self._memory.start()
        self._begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            synchronise(self.device)  # after an error this could raise in its place
        seconds = time.perf_counter() - self._begin
        self._cost = self._memory.stop(seconds)


@dataclass(frozen=True)
class DeviceState:
    """What a placement depends on, as it is at one moment."""

    type: str
    """As torch calls it: cuda, mps, cpu."""
    name: str
    dtype: str
    """What the model in question computes in there, such as float16."""
    free_bytes: int

    @property
    def budget_bytes(self) -> int:
        """What a stage may be planned to take of them."""
        return round(self.free_bytes * SAFE_SHARE)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all queued work, so that the time read next includes it."""
    if device.type == "cpu":
        return
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def total_bytes(device: torch.device) -> int:
    """All the memory of the GPU, or of this computer, in bytes."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def free_bytes(device: torch.device) -> int:
    """Bytes that work could still get: free on the GPU plus what torch holds there unused, or available RAM."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held)
    return free_ram()


def free_ram() -> int:
    """Bytes of this computer's memory that work could still get."""
    return int(psutil.virtual_memory().available)


PROCESSOR = Message("this computer’s processor")


def device_name(device: torch.device) -> Message:
    """A device as a person would call it; a GPU by its product name."""
    if device.type == "cuda":
        import torch

        return literal(str(torch.cuda.get_device_name(device)))
    names = {
        "cpu": PROCESSOR,
        "mps": Message("this Mac’s graphics chip"),
    }
    return names.get(device.type, literal(device.type))


def processor_name() -> str | None:
    """The processor as its maker calls it; None where the system does not say."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            if name := next(names, ""):
                return name
    except OSError:
        pass  # no Linux
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or None
        except (OSError, subprocess.SubprocessError):
            return None
    return platform.processor() or None


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """While inside, code that names no card uses this one: libraries make their streams on cuda:0 otherwise."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)


def empty_device_cache(device: torch.device) -> None:
    """Collect garbage and give back what torch holds unused: of a card, pinned for a card, of a Mac."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda" and torch.cuda.is_initialized():
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
        empty_pinned_cache(device)
    elif device.type == "mps":
        torch.mps.empty_cache()


def return_freed_ram() -> None:
    """Give what was freed back to the system: glibc keeps it in the arena of each thread that allocated it.

    What is taken again after that costs a page fault for each 4 kB. Other C libraries give it back by themselves.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no such function; Windows has no such handle
        return
    malloc_trim(0)


def empty_pinned_cache(device: torch.device) -> None:
    """Give back what torch holds unused of this computer's memory that was pinned for a card, by default for ever."""
    import torch

    if device.type == "cuda" and torch.cuda.is_initialized():
        torch._C._host_emptyCache()


class _VramPeak:
    """torch's peak counter. There is one per device, so stages must not overlap; the device queue ensures that."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        self.baseline = torch.cuda.memory_allocated(self.device)

    def begin_steps(self) -> None:
        """The counter runs on its own."""

    end_step = begin_steps

    def stop(self, seconds: float) -> Cost:
        import torch

        peak = torch.cuda.max_memory_allocated(self.device)
        return Cost(seconds, "VRAM", peak, self.baseline, total_bytes(self.device))


class _RamPeak:
    """What torch's CPU allocator handed out on the calling thread since the start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stack = ExitStack()

    def start(self) -> None:
        self._peak = self._stack.enter_context(measure_allocations())

    def begin_steps(self) -> None:
        self._peak.begin_steps()

    def end_step(self) -> None:
        self._peak.end_step()

    def stop(self, seconds: float) -> Cost:
        self._stack.close()
        peak = self._peak.bytes
        baseline = None if peak is None else 0
        return Cost(seconds, "RAM", peak, baseline, total_bytes(self.device))


class _UnknownPeak:
    """A Mac's chip: torch counts what it holds there, but keeps no peak."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """Nothing to count."""

    begin_steps = end_step = start

    def stop(self, seconds: float) -> Cost:
        return Cost(seconds, memory_kind(self.device), device_bytes=total_bytes(self.device))

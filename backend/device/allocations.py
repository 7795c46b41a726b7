"""The peak of what torch's CPU allocator hands out while a piece of work runs.

torch's profiler is told of each allocation and release on the thread that started it, with its size. Here it records
nothing else: operators are not traced, so an allocation costs a few microseconds. What other threads allocate is not
counted, nor what a library takes behind torch's back. The profiler tells no addresses: the release of a block from
before is left out by its size, so one of the very size of a block allocated here counts as that one's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AllocationPeak:
    """Of a `measure_allocations()`: `bytes` is the highest sum above what there was before, known once it has ended."""

    def __init__(self) -> None:
        self.bytes: int | None = None
        """None while it runs, and where somebody else's profiler ran on the thread."""
        self.highest = 0
        """As far as it has been counted."""
        self._now = 0
        self._live: dict[int, int] = {}
        """How many blocks of each size were allocated and not released."""
        self._step: list[int] = []

    def add(self, changes: Iterable[int]) -> None:
        """Count allocations (positive) and releases; of those only what was allocated here counts."""
        now, highest, live = self._now, self.highest, self._live
        for change in changes:
            if change > 0:
                live[change] = live.get(change, 0) + 1
            elif live.get(-change):
                live[-change] -= 1
            else:
                continue  # a block from before, at an address that had been seen; of another size than those here
            now += change
            if now > highest:
                highest = now
        self._now, self.highest = now, highest

    def begin_steps(self) -> None:
        """To be called on the same thread before many like steps: counts again where `end_step` had ended it."""
        self._step = []
        if self not in _thread.counting:
            _begin(self)

    def end_step(self) -> None:
        """To be called after each of those steps, which saves counting all of them.

        Counting ends after a step that allocated and released the same as the one before it and kept nothing, since
        the steps after it can only do so again.
        """
        if self not in _thread.counting:
            return
        changes = _collect()
        if changes == self._step and sum(changes) == 0:
            self._end()
        self._step = changes
        _record()

    def _end(self) -> None:
        _thread.counting.remove(self)
        self.bytes = self.highest


class _Thread(threading.local):
    def __init__(self) -> None:
        self.counting: list[AllocationPeak] = []
        """Those inside each other that are counting on this thread."""


_thread = _Thread()


@contextmanager
def measure_allocations() -> Iterator[AllocationPeak]:
    """The peak of what the work inside allocates on this thread; unknown if another profiler already runs on it."""
    peak = AllocationPeak()
    _begin(peak)
    try:
        yield peak
    finally:
        if peak in _thread.counting:
            _collect()
            peak._end()
            _record()


def _begin(peak: AllocationPeak) -> None:
    """Let it count from now on, unless somebody else's profiler runs."""
    import torch

    if _thread.counting:
        _collect()
    elif torch._C._autograd._profiler_enabled():
        return
    _thread.counting.append(peak)
    _record()


def _record() -> None:
    """Let the profiler record this thread's allocations, if anybody counts them."""
    import torch

    if not _thread.counting:
        return
    profiler = torch._C._profiler
    config = profiler.ProfilerConfig(
        profiler.ProfilerState.CPU, False, True, False, False, False, profiler._ExperimentalConfig()
    )
    torch._C._autograd._enable_profiler_legacy(config)
    torch._C._autograd._enable_record_function(False)


def _collect() -> list[int]:
    """End the recording, count it for all who are counting, and return it: bytes, negative for a release."""
    import torch

    torch._C._autograd._enable_record_function(True)
    threads = torch._C._autograd._disable_profiler_legacy()
    # The marks of beginning and end are events, too, of no bytes.
    changes = [size for events in threads for event in events if (size := event.cpu_memory_usage())]
    for peak in _thread.counting:
        peak.add(changes)
    return changes

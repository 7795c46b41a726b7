"""The peak of what torch's CPU allocator hands out while a piece of work runs, to the byte.

torch's profiler is told of each allocation and release on the thread that started it, with its size. Here it records
nothing else: operators are not traced, so it costs a fraction of a microsecond an allocation. Other Python threads are
not counted, nor what a library takes behind torch's back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AllocationPeak:
    """`bytes` after `measure_allocations()`: the highest sum above what there was before; None where unknown."""

    bytes: int | None = None


@contextmanager
def measure_allocations() -> Iterator[AllocationPeak]:
    """The peak of what the work inside allocates on this thread; unknown if a profiler already runs on it."""
    import torch

    autograd, profiler = torch._C._autograd, torch._C._profiler
    found = AllocationPeak()
    if autograd._profiler_enabled():
        yield found
        return
    config = profiler.ProfilerConfig(
        profiler.ProfilerState.CPU, False, True, False, False, False, profiler._ExperimentalConfig()
    )
    autograd._enable_profiler_legacy(config)
    autograd._enable_record_function(False)
    try:
        yield found
    finally:
        autograd._enable_record_function(True)
        threads = autograd._disable_profiler_legacy()
    found.bytes = highest_sum(
        event.cpu_memory_usage()
        for events in threads
        for event in events
        if str(event.kind()) == "memory_alloc"
    )


def highest_sum(changes: Iterable[int]) -> int:
    """The highest running sum of allocations (positive) and releases; of those only what was allocated here counts."""
    now = highest = 0
    live: Counter[int] = Counter()
    for change in changes:
        if change > 0:
            live[change] += 1
        elif live[-change] > 0:
            live[-change] -= 1
        else:
            continue  # a block from before, at an address that had been seen
        now += change
        highest = max(highest, now)
    return highest

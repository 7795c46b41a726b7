from __future__ import annotations

import threading

import torch
from torch.profiler import ProfilerActivity, profile

from backend.device.allocations import AllocationPeak, measure_allocations


def highest_sum(*changes: int) -> int:
    peak = AllocationPeak()
    peak.add(changes)
    return peak.highest


def work() -> None:
    convolution = torch.nn.Conv2d(24, 48, 3)
    with torch.inference_mode():
        convolution(torch.zeros(1, 24, 64, 64)).relu()


def test_the_peak_is_the_one_that_torchs_profiler_shows() -> None:
    work()
    with measure_allocations() as peak:
        work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert peak.bytes == highest_sum(*(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_what_ran_before_or_beside_does_not_count() -> None:
    before = torch.zeros(2**20)
    go, done = threading.Event(), threading.Event()

    def beside() -> None:
        go.wait()
        torch.zeros(2**22)
        done.set()

    other = threading.Thread(target=beside)
    other.start()
    with measure_allocations() as peak:
        kept = torch.zeros(1000)
        go.set()
        done.wait()
        del before
        more = torch.zeros(500)
    other.join()
    assert peak.bytes == (kept.numel() + more.numel()) * 4


def test_a_release_of_something_from_before_is_left_out() -> None:
    assert highest_sum(100, -300, 200, -200, -100) == 300


def test_under_a_profiler_it_is_unknown_and_after_it_operators_are_traced() -> None:
    with profile(activities=[ProfilerActivity.CPU]), measure_allocations() as peak:
        torch.zeros(3)
    assert peak.bytes is None
    with measure_allocations():
        pass
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        torch.zeros(3)
    assert any(event.name == "aten::zeros" for event in recorded.events())


def test_one_inside_another_is_counted_by_both() -> None:
    with measure_allocations() as outer:
        kept = torch.zeros(1000)
        with measure_allocations() as inner:
            torch.zeros(500)
        assert inner.bytes == 2000
        more = torch.zeros(100)
    assert outer.bytes == 4 * (kept.numel() + 500) and more.numel() < 500


def test_steps_that_repeat_each_other_are_not_counted_to_the_end() -> None:
    def step(kept: torch.Tensor) -> torch.Tensor:
        return (kept + 1) * 2  # one more lives for a moment, and the one from before is released

    with measure_allocations() as all_steps:
        state = torch.zeros(1000)
        for _ in range(10):
            state = step(state)
        del state
    counted = []
    with measure_allocations() as peak:
        state = torch.zeros(1000)
        peak.begin_steps()
        for _ in range(10):
            state = step(state)
            peak.end_step()
            counted.append(peak.bytes is None)
    assert counted[0] and counted[3:] == [False] * 7, (
        "a first step may differ, and then each releases what it takes"
    )
    assert peak.bytes == all_steps.bytes and 3 * 4000 <= peak.bytes < 3 * 4000 + 100


def test_steps_that_keep_more_and_more_are_counted_to_the_end() -> None:
    kept = []
    with measure_allocations() as peak:
        peak.begin_steps()
        for _ in range(10):
            kept.append(torch.zeros(1000))
            peak.end_step()
    assert peak.bytes == 10 * 4000


def test_other_steps_afterwards_are_counted_again() -> None:
    with measure_allocations() as peak:
        for size in (1000, 2000):
            peak.begin_steps()
            for _ in range(5):
                torch.zeros(size)
                peak.end_step()
            assert peak.bytes == size * 4
    assert peak.bytes == 8000

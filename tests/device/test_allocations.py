from __future__ import annotations

import threading

import torch
from torch.profiler import ProfilerActivity, profile

from backend.device.allocations import highest_sum, measure_allocations


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
    assert peak.bytes == highest_sum(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))


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
    assert highest_sum([100, -300, 200, -200, -100]) == 300


def test_under_a_profiler_it_is_unknown_and_after_it_operators_are_traced() -> None:
    with profile(activities=[ProfilerActivity.CPU]), measure_allocations() as peak:
        torch.zeros(3)
    assert peak.bytes is None
    with measure_allocations():
        pass
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        torch.zeros(3)
    assert any(event.name == "aten::zeros" for event in recorded.events())

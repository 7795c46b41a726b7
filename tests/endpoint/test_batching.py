"""The bounded queue of requests before a device: places, bytes, order, batches, and requests given up on."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence

import pytest

from backend.device.queue import DeviceQueue
from backend.endpoint.batching import BatchableRequest, BatchingQueue
from backend.errors import BusyError
from tests.waiting import occupied


class Recorder:
    """Computes nothing; keeps each batch and the thread that it came on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        return [10 * item for item in items]

    def request(self, item: int, key: Hashable = "same") -> BatchableRequest:
        return BatchableRequest(key, 1, item, self.run)


@pytest.fixture
def device() -> DeviceQueue:
    return DeviceQueue("the-device")


def test_requests_run_on_the_devices_thread_in_order_with_all_else(device: DeviceQueue) -> None:
    recorder, queue = Recorder(), BatchingQueue(device, 9, 9)
    with occupied(device):
        first = queue.submit(recorder.request(1))
        between = device.submit(lambda: recorder.batches.append(["something else"]))  # type: ignore[list-item]
        second = queue.submit(recorder.request(2))
        assert queue.waiting == 2
    assert (first.result(5).value, second.result(5).value) == (10, 20)
    between.result(5)
    assert recorder.batches == [[1], ["something else"], [2]] and recorder.threads == {"the-device"}
    assert first.result().batch == 1 and first.result().queue_seconds >= 0
    assert queue.waiting == 0


def test_waiting_requests_of_one_kind_are_computed_together_and_once(device: DeviceQueue) -> None:
    recorder, queue = Recorder(), BatchingQueue(device, 9, 9, batch_pixels=3)
    with occupied(device):
        requests = [recorder.request(item, key) for item, key in enumerate(("a", "b", "a", "a", "a"))]
        futures = [queue.submit(request) for request in requests]
    assert [future.result(5).value for future in futures] == [0, 10, 20, 30, 40]
    assert [future.result().batch for future in futures] == [3, 1, 3, 3, 1]
    device.run(lambda: None)  # the pieces of work that found nothing left to do are behind this
    assert recorder.batches == [[0, 2, 3], [1], [4]]


def test_a_request_given_up_on_leaves_at_once_and_costs_nothing(device: DeviceQueue) -> None:
    recorder, queue = Recorder(), BatchingQueue(device, 9, 9, batch_pixels=9)
    with occupied(device):
        futures = [queue.submit(recorder.request(item)) for item in range(4)]
        assert futures[0].cancel() and futures[2].cancel()
        assert queue.waiting == 2
    assert [futures[index].result(5).value for index in (1, 3)] == [10, 30]
    assert recorder.batches == [[1, 3]] and queue.waiting == 0
    with occupied(device):
        assert queue.submit(recorder.request(5)).cancel()
    device.run(lambda: None)
    assert recorder.batches == [[1, 3]] and queue.waiting == 0


def test_one_that_runs_cannot_be_given_up(device: DeviceQueue) -> None:
    queue, begun, release = BatchingQueue(device, 9, 9), threading.Event(), threading.Event()

    def run(items: Sequence[int]) -> Sequence[int]:
        begun.set()
        assert release.wait(10)
        return items

    future = queue.submit(BatchableRequest("same", 1, 7, run))
    assert begun.wait(10) and not future.cancel()
    release.set()
    assert future.result(5).value == 7


def test_a_failing_batch_fails_its_requests_and_no_other(device: DeviceQueue) -> None:
    recorder, queue = Recorder(), BatchingQueue(device, 9, 9)

    def fail(_: Sequence[int]) -> Sequence[int]:
        raise KeyError("inner")

    failing = queue.submit(BatchableRequest("other", 1, 1, fail))
    after = queue.submit(recorder.request(2))
    with pytest.raises(KeyError):
        failing.result(5)
    assert after.result(5).value == 20


def test_places_and_bytes_are_bounded(device: DeviceQueue) -> None:
    queue = BatchingQueue(device, 2, 10)
    queue.acquire(50)  # alone, any size gets in
    with pytest.raises(BusyError, match="all places are taken") as refused:
        queue.acquire(1)
    assert refused.value.retry_after == 1 and refused.value.hint == "Try again in 1 s."
    queue.resize(50, 4)
    queue.acquire(6)
    with pytest.raises(BusyError):
        queue.acquire(0)  # no third place
    queue.release(4)
    queue.acquire(4)
    assert queue.in_flight == 2 and not queue.close(0)
    queue.release(6)
    queue.release(4)
    assert queue.in_flight == 0 and queue.close(0)
    with pytest.raises(BusyError, match="stopping"):
        queue.acquire(0)


def test_one_client_may_not_have_all_places() -> None:
    queue = BatchingQueue(DeviceQueue(), 4, 100, per_client=2)
    queue.acquire(10, "a")
    queue.acquire(10, "a")
    for size in (0, 10):
        with pytest.raises(BusyError, match="Your address"):
            queue.acquire(size, "a")
    queue.acquire(10, "b")
    queue.acquire(10)
    for client in ("c", None):
        with pytest.raises(BusyError, match="all places"):
            queue.acquire(0, client)
    queue.release(10, "a")
    queue.release(10)
    queue.resize(10, 50, "a")
    with pytest.raises(BusyError, match="Your address"):
        queue.acquire(1, "a")  # it has its half of the bytes
    queue.resize(50, 1, "a")
    queue.acquire(49, "a")
    for size, client in ((1, "a"), (49, "a"), (10, "b")):
        queue.release(size, client)
    assert queue.in_flight == 0 and queue._clients == {} and queue._bytes == 0

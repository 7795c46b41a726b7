from __future__ import annotations

import threading

import pytest

from backend.errors import BusyError, Cancelled
from backend.run.job_queue import JobQueue


def one_more(queue: JobQueue, order: list[int], index: int, seen: list[int]) -> threading.Thread:
    """A thread that waits by now; it notes in `seen` how many are ahead, and its index in `order` when it is in."""
    told = threading.Event()

    def note(ahead: int) -> None:
        seen.append(ahead)
        told.set()

    def work() -> None:
        with queue.enter(on_wait=note):
            order.append(index)

    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(10)
    return thread


def test_first_come_first_served() -> None:
    queue, order, seen = JobQueue(), [], []
    with queue.enter():
        threads = [one_more(queue, order, index, seen) for index in range(4)]
        assert queue.waiting == 5
        assert seen == [1, 2, 3, 4]
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3] and queue.waiting == 0


def test_giving_up_does_not_hold_the_others() -> None:
    queue, stop = JobQueue(), threading.Event()
    stop.set()
    with queue.enter():
        with pytest.raises(Cancelled), queue.enter(stop):
            raise AssertionError("never its turn")
        assert queue.waiting == 1
    with queue.enter():
        pass


def test_an_error_gives_the_place_back() -> None:
    queue = JobQueue()
    with pytest.raises(ValueError, match="x"), queue.enter():
        raise ValueError("x")
    assert queue.waiting == 0


def test_several_places_and_a_limit() -> None:
    queue, seen = JobQueue(at_once=2, limit=3), []
    with queue.enter(), queue.enter():
        third = one_more(queue, [], 0, seen)
        with pytest.raises(BusyError, match="3 others"), queue.enter():
            raise AssertionError("there is no room")
        assert queue.waiting == 3
    third.join(10)
    assert seen[0] == 1 and queue.waiting == 0

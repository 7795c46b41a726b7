from __future__ import annotations

import threading

import pytest

from backend.errors import BusyError, Cancelled
from backend.turns import Turns


def test_first_come_first_served() -> None:
    turns, order, threads = Turns(), [], []
    entered = [threading.Event() for _ in range(4)]

    def work(index: int) -> None:
        with turns.hold(on_wait=lambda _: entered[index].set()):
            order.append(index)

    with turns.hold():
        for index in range(4):
            threads.append(threading.Thread(target=work, args=(index,)))
            threads[-1].start()
            assert entered[index].wait(10)
        assert turns.waiting == 5
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3] and turns.waiting == 0


def one_more_in(turns: Turns, seen: list[int]) -> threading.Thread:
    """Somebody who waits for a turn by now, and notes in `seen` how many are ahead."""
    told = threading.Event()

    def note(ahead: int) -> None:
        seen.append(ahead)
        told.set()

    def wait_in_line() -> None:
        with turns.hold(on_wait=note):
            pass

    thread = threading.Thread(target=wait_in_line)
    thread.start()
    assert told.wait(10)
    return thread


def test_the_place_in_line_is_told() -> None:
    turns, seen = Turns(), []
    with turns.hold():
        thread = one_more_in(turns, seen)
    thread.join(10)
    assert seen == [1]


def test_giving_up_the_place_does_not_hold_the_others() -> None:
    turns, stop = Turns(), threading.Event()
    stop.set()
    with turns.hold():
        with pytest.raises(Cancelled), turns.hold(stop):
            raise AssertionError("never its turn")
        assert turns.waiting == 1
    with turns.hold():
        pass


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="x"), turns.hold():
        raise ValueError("x")
    assert turns.waiting == 0


def test_whoever_runs_work_it_is_done_in_turn_on_one_thread() -> None:
    turns, told = Turns(), threading.Event()
    threads: list[threading.Thread] = []

    def wait_and_run() -> None:
        turns.run(lambda: threads.append(threading.current_thread()), on_wait=lambda _: told.set())

    with turns.hold():
        other = threading.Thread(target=wait_and_run)
        other.start()
        assert told.wait(10) and not threads
    other.join(10)
    turns.run(lambda: threads.append(threading.current_thread()))
    assert len(threads) == 2 and threads[0] is threads[1]
    assert turns.waiting == 0


def test_work_that_fails_gives_the_turn_back_and_its_error_to_who_asked() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        turns.run(lambda: 1 // 0)
    assert turns.waiting == 0 and turns.run(lambda: 5) == 5


def test_several_places_and_a_bound_on_the_line() -> None:
    turns, seen = Turns(places=2, most=3), []
    with turns.hold(), turns.hold():
        third = one_more_in(turns, seen)
        with pytest.raises(BusyError, match="3 others"), turns.hold():
            raise AssertionError("there is no room")
        assert turns.waiting == 3
    third.join(10)
    assert seen[0] == 1 and turns.waiting == 0

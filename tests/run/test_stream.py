"""Work in a thread, as a generator of its events."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

import pytest

from backend.run.stream import stream


def test_events_come_in_order_and_then_the_error() -> None:
    def work(_: threading.Event, notify: Callable[[int], None]) -> None:
        for number in range(3):
            notify(number)
        raise ZeroDivisionError

    seen = []
    with pytest.raises(ZeroDivisionError):
        for number in stream(work, threading.Event()):
            seen.append(number)
    assert seen == [0, 1, 2]


def test_without_an_event_there_is_a_sign_of_life() -> None:
    goes_on = threading.Event()

    def work(_: threading.Event, notify: Callable[[str], None]) -> None:
        assert goes_on.wait(20)
        notify("done")

    seen = stream(work, threading.Event(), 0.05)
    assert next(seen) is None
    goes_on.set()
    assert [one for one in seen if one is not None] == ["done"]


def test_closing_stops_the_work_and_waits_for_nothing() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def work(stop: threading.Event, notify: Callable[[str], None]) -> None:
        notify("begun")
        assert stop.wait(20) and goes_on.wait(20)
        ended.set()

    seen = stream(work, threading.Event())
    next(seen)
    seen.close()
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(20)


def test_the_work_sees_the_context_of_who_asks() -> None:
    asks = contextvars.ContextVar("asks", default="nobody")
    asks.set("a visitor")
    assert list(stream(lambda _, notify: notify(asks.get()), threading.Event())) == ["a visitor"]

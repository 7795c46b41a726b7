"""One long-lived thread that does what it is handed, in order.

OpenMP keeps a team of helpers for each thread that computes, and the allocator an arena: work that always comes from
the same thread finds both warm, where a fresh thread would build them again.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_Tasks = queue.SimpleQueue[Callable[[], None] | None]

_LEAVE_SECONDS = 10.0
"""How long a process that ends waits for a piece of work that was told to stop."""


class Worker:
    """Its thread starts with the first piece of work and ends with this object, or with the process.

    A process that ends stops the work first: Python would break the thread off inside torch, and that aborts.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: _Tasks = queue.SimpleQueue()
        self._stops: set[threading.Event] = set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def run(self, work: Callable[[], T], stop: threading.Event | None = None) -> T:
        """`work()`, when all that was handed in before is done; whatever it raises is raised here.

        `stop` is what `work` looks at; it is set should the process end meanwhile.
        """
        return self.submit(work, stop).result()

    def submit(self, work: Callable[[], T], stop: threading.Event | None = None) -> Future[T]:
        """Like `run`, without waiting."""
        future: Future[T] = Future()
        self._start()
        if stop is not None:
            self._stops.add(stop)
            future.add_done_callback(lambda _: self._stops.discard(stop))
        self._tasks.put(partial(_attempt, work, future))
        return future

    def _start(self) -> None:
        with self._starting:
            if (
                self._process != os.getpid()
            ):  # threads do not survive a fork, and what the parent's had to do is its own
                self._process, self._thread = os.getpid(), None
                self._tasks, self._stops = queue.SimpleQueue(), set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_serve, args=(self._tasks,), name=self._name, daemon=True
                )
                self._thread.start()
                weakref.finalize(self, _end, self._tasks, self._stops, self._thread)


def _serve(tasks: _Tasks) -> None:
    """The thread; it must not hold on to a piece of work, nor to its result, while it waits for the next."""
    while (task := tasks.get()) is not None:
        task()
        del task


def _attempt(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - handed over to whoever waits for it, not swallowed
        future.set_exception(error)


def _end(tasks: _Tasks, stops: set[threading.Event], thread: threading.Thread) -> None:
    for stop in tuple(stops):
        stop.set()
    tasks.put(None)
    if thread is not threading.current_thread():  # garbage is collected on any thread
        thread.join(_LEAVE_SECONDS)

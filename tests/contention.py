"""How much longer things take because other processes want the processor, too: for tests that look at the clock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_COMPUTE = """
import select, sys, time
while sys.stdin.readline():
    wall, cpu = time.monotonic(), time.process_time()
    while not select.select([sys.stdin], [], [], 0)[0]:
        sum(range(1000))
    sys.stdin.readline()
    print((time.monotonic() - wall) / (time.process_time() - cpu), flush=True)
"""


class Contention:
    """A process that does nothing but compute while something else is measured."""

    def __enter__(self) -> Contention:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _COMPUTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def during(self, work: Callable[[], T]) -> tuple[T, float]:
        """(what `work()` gives, how many times as long computing took meanwhile as on a processor of its own)."""
        self._say()
        try:
            done = work()
        finally:
            self._say()
            assert self._process.stdout is not None
            factor = float(self._process.stdout.readline())
        return done, max(1.0, factor)

    def _say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=20)

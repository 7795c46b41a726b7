"""One line of progress at a time, with the time left; the same for painting, training and measuring."""

import sys
import time
from dataclasses import dataclass, field


def clock(seconds: float) -> str:
    """4 -> '4 s', 75 -> '1:15', 7380 -> '2:03:00'."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


@dataclass
class Progress:
    """Prints at most once every `every` seconds; `silent` for every process but the first."""

    stage: str
    every: float = 15.0
    silent: bool = False
    started: float = field(default_factory=time.monotonic)
    printed: float = float("-inf")

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def show(self, share: float, words: str = "", *, left: float | None = None, force: bool = False) -> None:
        """`share` of the stage done, in [0, 1]; `left` in seconds where it is known, else extrapolated."""
        now = self.now()
        if self.silent or (now - self.printed < self.every and not force):
            return
        self.printed = now
        if left is None and share > 0:
            left = (now - self.started) * (1 - share) / share
        remaining = "" if left is None else f", {clock(left)} left"
        sys.stdout.write(f"{self.stage}: {share:6.1%}{remaining}  {words}\n")
        sys.stdout.flush()

"""Downloads under way: one process for each repository's files, however many follow it.

Nobody holds a lock while bytes arrive, so whoever needs none of them never waits. A download ends when the last one
who follows it leaves; what has arrived stays on the disk, and the next one goes on from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.device.hub import HubFiles
from backend.device.interrupt import raise_if_stopped
from backend.device.load_errors import Kind

ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1
"""How often somebody who follows looks at `stop`."""
_REPORT_SECONDS = 0.5
"""At least this long between two reports of progress."""
_SPEED_SECONDS = 15.0
"""The present speed is that of the last so many seconds."""


@dataclass(frozen=True)
class Progress:
    """Bytes here, bytes altogether, and bytes a second (None: not known yet)."""

    done: int
    total: int
    speed: float | None

    @property
    def seconds_left(self) -> float | None:
        """At the present speed; None without one."""
        return (self.total - self.done) / self.speed if self.speed else None


class DownloadError(Exception):
    """A download failed. `kind` is None if it is nothing that the hub, the network or the disk does."""

    def __init__(self, kind: Kind | None, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Downloads:
    """Thread-safe; one for each process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: dict[HubFiles, _Download] = {}
        self.last_speed: float | None = None
        """Bytes a second of the latest download in this process; None before the first."""

    def follow(
        self,
        wanted: Sequence[HubFiles],
        on_progress: Callable[[Progress], None],
        stop: threading.Event | None = None,
    ) -> None:
        """Return when all of `wanted` lie in the hub's cache. Starts what is not on its way yet, side by side.

        `on_progress` is told of all of them together, once every size is known.

        Raises:
            Cancelled: `stop` was set; others who follow the same are not disturbed. DownloadError: one failed.
        """
        raise_if_stopped(stop)
        joined = [self._join(files) for files in wanted]
        told = -_REPORT_SECONDS
        try:
            while True:
                raise_if_stopped(stop)
                open_ones = [one for one in joined if not one.is_over]
                now = _together(joined)
                if now is not None and (not open_ones or time.monotonic() - told >= _REPORT_SECONDS):
                    self.last_speed = now.speed or self.last_speed
                    on_progress(now)
                    told = time.monotonic()
                for one in joined:
                    one.raise_if_failed()
                if not open_ones:
                    return
                open_ones[0].over.wait(_POLL_SECONDS)
        finally:
            for files, one in zip(wanted, joined, strict=True):
                self._leave(files, one)

    def _join(self, files: HubFiles) -> _Download:
        with self._guard:
            one = self._running.get(files)
            if one is None or one.is_over:
                one = self._running[files] = _Download(files)
            one.followers += 1
            return one

    def _leave(self, files: HubFiles, one: _Download) -> None:
        with self._guard:
            one.followers -= 1
            if one.followers:
                return
            if self._running.get(files) is one:
                del self._running[files]
        one.end()


def _together(downloads: Sequence[_Download]) -> Progress | None:
    """The sum, once every part is known."""
    parts = [part for one in downloads if (part := one.progress()) is not None]
    if len(parts) < len(downloads):
        return None
    speeds = [part.speed for part in parts if part.speed]
    return Progress(
        sum(part.done for part in parts), sum(part.total for part in parts), sum(speeds) if speeds else None
    )


class _Download:
    """A process that fetches, and a thread that reads what it says."""

    def __init__(self, files: HubFiles) -> None:
        self.followers = 0
        self.over = threading.Event()
        self._failed: DownloadError | None = None
        self._total: int | None = None
        self._seen: deque[tuple[float, int]] = deque(maxlen=1000)
        """When how many bytes were here."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.device.download_process", json.dumps(asdict(files))],
            # Its end of this pipe closes with our process, however that ends, and then it ends, too.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": path,
                # Xet's own transfer knows no ranges of a file that is half here.
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_VERBOSITY": "error",
            },
        )
        threading.Thread(target=self._read, name="download", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def raise_if_failed(self) -> None:
        if self.is_over and self._failed is not None:
            raise DownloadError(self._failed.kind, str(self._failed))

    def progress(self) -> Progress | None:
        """None until the size is known."""
        total, seen = self._total, list(self._seen)
        if total is None:
            return None
        now, (_, done) = time.monotonic(), seen[-1]
        if self.is_over:
            return Progress(done, total, None)
        since = [(when, count) for when, count in seen if now - when <= _SPEED_SECONDS]
        if not since:
            return Progress(done, total, None)
        begin, before = since[0]
        return Progress(done, total, (done - before) / (now - begin) if done > before else None)

    def end(self) -> None:
        """Without waiting for it: a process that hangs in the network or the disk ends when the system lets it."""
        self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None and self._process.stdin is not None
        failed: DownloadError | None = None
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                if "error" in said:
                    failed = DownloadError(said["error"], said["detail"])
                else:
                    self._seen.append((time.monotonic(), said["done"]))
                    self._total = said["total"]
        status = self._process.wait()
        self._process.stdin.close()
        if status and failed is None:
            failed = DownloadError(None, f"The download's process ended with status {status}.")
        self._failed = failed
        self.over.set()

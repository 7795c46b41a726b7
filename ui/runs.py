"""The runs people started: the stop button's registry, and a folder with what each run made.

Ids are unguessable, because who knows one can see its picture. The page keeps ids only, never tensors.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import DiskFullError
from backend.latents import COMFYUI_SUFFIX, SUFFIX, save_latents
from backend.models import ModelSpec
from backend.report import StageReport
from ui.cleaning import RUN_ID, Retention, clean

if TYPE_CHECKING:
    import torch

UNFINISHED = 200
"""Runs without a picture that can still be finished another way; the oldest are forgotten first."""
_CLEANUP_SECONDS = 60.0
"""Time between two searches for what is too old or too much."""
_UPLOADED = 16_000_000
"""Bytes of uploads after which it is worth a look in between."""


@dataclass
class Run:
    """One run: its stop event while it lasts, its files and reports afterwards."""

    id: str
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    reports: list[StageReport] = field(default_factory=list)
    latents: Path | None = None
    picture: Path | None = None
    disk_full: bool = False
    """Whether a file of this run could not be written."""

    def write(self, name: str, save: Callable[[Path], object]) -> Path:
        """`save(path)` to a file of that name in the run's folder.

        Raises:
            DiskFullError: no room; what was begun is removed.
        """
        path = self.folder / name
        try:
            with disk_may_be_full():
                self.folder.mkdir(parents=True, exist_ok=True)
                save(path)
        except DiskFullError:
            self.disk_full = True
            if path.is_file():
                path.unlink()
            raise
        return path

    def keep(self, name: str, save: Callable[[Path], object]) -> Path | None:
        """Like `write`, but a full disk only means None and `disk_full`: a picture is shown, kept or not."""
        try:
            return self.write(name, save)
        except DiskFullError:
            return None

    def keep_latents(self, latents: torch.Tensor, spec: ModelSpec, name: str) -> None:
        """Write them at once, so that a later failure loses nothing."""
        path = self.keep(name + SUFFIX, lambda path: save_latents(path, latents, spec))
        self.latents = path or self.latents
        if path is not None:
            self.keep(name + COMFYUI_SUFFIX, lambda path: save_latents(path, latents, spec))


@contextmanager
def disk_may_be_full() -> Iterator[None]:
    """Raises DiskFullError where the system says that there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            "The disk of the computer that runs this app is full, so nothing new can be kept there.",
            "Whoever runs it must make room.",
        ) from error


class Runs:
    """Thread-safe. Deletes from its folder and from `temp` what `retention` does not keep."""

    def __init__(self, folder: Path, retention: Retention | None = None, temp: Path | None = None) -> None:
        self.folder = folder
        self._temp = temp
        self._retention = retention or Retention()
        self._last_cleanup = float("-inf")
        self._uploaded = 0
        """Bytes since uploads were looked at last."""
        self._cleaning = threading.Lock()
        self._running: dict[str, Run] = {}
        self._unfinished: dict[str, Run] = {}
        """Runs that ended without a picture but left latents: ids, paths and reports, no tensors."""
        self._lock = threading.Lock()

    def start(self) -> Run:
        """A new run with an empty folder; without one, if not even that has room."""
        self.clean_up()
        run_id = secrets.token_urlsafe(16)
        run = Run(run_id, self.folder / run_id)
        with self._lock:
            self._running[run_id] = run
        with suppress(DiskFullError):
            run.write("", lambda _: None)
        return run

    def resume(self, run_id: str | None) -> Run | None:
        """A run that ended without a picture, to be finished from its latents; None if it is not kept any more."""
        with self._lock:
            run = self._unfinished.pop(run_id or "", None)
            if run is None:
                return None
            run.stop = threading.Event()
            self._running[run.id] = run
        return run

    def stop(self, run_id: str | None) -> None:
        """Ask a run to end; one that has ended already is left alone."""
        with self._lock:
            run = self._running.get(run_id or "")
        if run is not None:
            run.stop.set()

    def finish(self, run: Run) -> None:
        """The run is over. Without a picture but with latents it can be resumed; doing this twice does no harm."""
        with self._lock:
            self._running.pop(run.id, None)
            if run.picture is None and run.latents is not None:
                self._unfinished[run.id] = run
                while len(self._unfinished) > UNFINISHED:
                    self._unfinished.pop(next(iter(self._unfinished)))

    def find(self, run_id: str) -> Path | None:
        """The folder of a run, if it is still kept. The id may come from a visitor."""
        folder = self.folder / run_id
        return folder if RUN_ID.fullmatch(run_id) and folder.is_dir() else None

    def clean_up(self) -> None:
        """Delete what is too old or too much, not more often than every `_CLEANUP_SECONDS`."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_cleanup < _CLEANUP_SECONDS:
                return
            self._last_cleanup = now
            busy = set(self._running)
        self._clean(busy)

    def uploaded(self, count: int) -> None:
        """So many bytes more were uploaded: after a tenth of the room, look in a thread whether it is too much."""
        with self._lock:
            self._uploaded += count
            if self._cleaning.locked() or self._uploaded < max(_UPLOADED, self._retention.gb * 1e8):
                return
            self._uploaded = 0
            busy = set(self._running)
        threading.Thread(target=self._clean, args=(busy,), name="cleanup-uploads", daemon=True).start()

    def _clean(self, busy: Collection[str]) -> None:
        with self._cleaning:
            clean(self.folder, self._retention, busy, self._temp)

    def cleanup_loop(self) -> None:
        """For a thread: a page that nobody uses deletes its old pictures, too."""
        while True:
            self.clean_up()
            time.sleep(_CLEANUP_SECONDS)

"""The runs people started: the stop button's registry, and a folder with what each run made.

Ids are unguessable, because whoever knows one can see its picture. The page keeps ids only, never tensors.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backend.latents import save_latents
from backend.models import ModelSpec
from backend.report import StageReport

if TYPE_CHECKING:
    import torch

KEEP = 200
"""Run folders kept on disk; the oldest go first."""
_ID = re.compile(r"[A-Za-z0-9_-]{16,40}")


@dataclass
class Run:
    """One run: its stop event while it lasts, its files and reports afterwards."""

    id: str
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    reports: list[StageReport] = field(default_factory=list)
    latents: Path | None = None
    picture: Path | None = None

    def keep_latents(self, latents: torch.Tensor, spec: ModelSpec, name: str) -> None:
        """Write them at once, so that a later failure loses nothing."""
        path = self.folder / f"{name}.safetensors"
        save_latents(path, latents, spec)
        self.latents = path


class Runs:
    """Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, Run] = {}
        self._unfinished: dict[str, Run] = {}
        """Runs that ended without a picture but left latents: ids, paths and reports, no tensors."""
        self._lock = threading.Lock()

    def start(self) -> Run:
        run_id = secrets.token_urlsafe(16)
        folder = self.folder / run_id
        folder.mkdir(parents=True)
        run = Run(run_id, folder)
        with self._lock:
            self._running[run_id] = run
        self._tidy()
        return run

    def resume(self, run_id: str | None) -> Run | None:
        """A run that ended without a picture, to be finished from its latents, if it is still kept."""
        with self._lock:
            run = self._unfinished.get(run_id or "")
            if run is None:
                return None
            run_id = run.id
            run.stop = threading.Event()
            self._running[run_id] = run
        return run

    def stop(self, run_id: str | None) -> None:
        """Ask a run to end; one that has ended already is left alone."""
        with self._lock:
            run = self._running.get(run_id or "")
        if run is not None:
            run.stop.set()

    def finish(self, run: Run) -> None:
        with self._lock:
            self._running.pop(run.id, None)
            if run.picture is None and run.latents is not None:
                self._unfinished[run.id] = run
                while len(self._unfinished) > KEEP:
                    self._unfinished.pop(next(iter(self._unfinished)))

    def find(self, run_id: str) -> Path | None:
        """The folder of a run, if it is still kept. The id may come from a visitor."""
        folder = self.folder / run_id
        return folder if _ID.fullmatch(run_id) and folder.is_dir() else None

    def _tidy(self) -> None:
        with self._lock:
            busy = set(self._running)
        folders = [f for f in self.folder.iterdir() if _ID.fullmatch(f.name) and f.name not in busy]
        # A folder may be removed by another process meanwhile; then its age no longer matters.
        aged = sorted((f.stat().st_mtime, f) for f in folders if f.is_dir())
        for _, folder in aged[: max(0, len(aged) - KEEP)]:
            shutil.rmtree(folder, ignore_errors=True)

"""What the page wrote is deleted when it is old, and the oldest first when it takes too much room.

There are three kinds of things: a folder for each run, the sketch pad's drawings beside them, and Gradio's copies of
uploads and results. The last lie apart: what visitors uploaded must not be served as what it says it is.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

RUN_ID = re.compile(r"[A-Za-z0-9_-]{16,40}")
DRAWINGS = "drawings"
GRACE_SECONDS = 900.0
"""What is younger stays when there is too much: a job in the queue needs its upload. But uploads alone may not take
more than all the room, however young they are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How long what the page wrote is kept, and how much of it."""

    days: float = 14.0
    gb: float = 5.0
    """Of 10⁹ bytes."""


@dataclass(frozen=True)
class _Entry:
    """A file, or a folder whose files belong together."""

    used: float
    """Seconds since the epoch when something in it was last written."""
    bytes: int
    path: Path
    is_upload: bool
    """Whether it lies among Gradio's copies."""


def clean(
    folder: Path,
    retention: Retention,
    busy: Collection[str] = (),
    temp: Path | None = None,
    now: float | None = None,
) -> int:
    """Delete what is too old or too much; gives the bytes that were freed.

    `folder` holds the runs, of which those in `busy` are left alone; in `temp` everything may go.
    """
    now = time.time() if now is None else now
    made = [_entry(path, is_upload=False) for path in _made_here(folder, busy)]
    uploads = [_entry(path, is_upload=True) for path in (_inside(temp) if temp else ())]
    entries = sorted(filter(None, made + uploads), key=lambda entry: entry.used)
    room = retention.gb * 1e9
    left = sum(entry.bytes for entry in entries)
    left_uploads = sum(entry.bytes for entry in entries if entry.is_upload)
    freed = 0
    for entry in entries:
        age = now - entry.used
        too_much = (left > room and age > GRACE_SECONDS) or (entry.is_upload and left_uploads > room)
        if age <= retention.days * 86400 and not too_much:
            continue
        _remove(entry.path)
        left -= entry.bytes
        left_uploads -= entry.bytes if entry.is_upload else 0
        freed += entry.bytes
    if freed:
        _log.info("deleted %.1f MB of old pictures and uploads", freed / 1e6)
    return freed


def _made_here(folder: Path, busy: Collection[str]) -> Iterator[Path]:
    for path in _inside(folder):
        if path.name == DRAWINGS:
            yield from _inside(path)
        elif RUN_ID.fullmatch(path.name) and path.name not in busy:
            yield path


def _inside(folder: Path) -> list[Path]:
    # Another process may remove it meanwhile; a link is never followed to somewhere else.
    try:
        return [path for path in folder.iterdir() if not path.is_symlink()]
    except OSError:
        return []


def _entry(path: Path, *, is_upload: bool) -> _Entry | None:
    try:
        stats = [part.lstat() for part in (path, *path.rglob("*"))]
    except OSError:
        return None
    return _Entry(max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats), path, is_upload)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

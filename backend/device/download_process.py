"""Fetches a repository's files into the hub's cache: `python -m backend.device.download_process FILES`.

A process of its own can be ended at any moment, whatever it waits for (hf_xet, for one, goes on when its progress
callback raises), and what it has written so far stays. `huggingface_hub` begins a file anew each time (since 1.18 its
temporary files bear random names), so each file is fetched here under a name of its own, from where the last try
ended, and checked against the hub's digest before it counts. That needs plain HTTP, which takes ranges.

FILES is a `HubFiles` as JSON. Standard output has a JSON object a line: {"done": bytes, "total": bytes} as it goes, and
at the end {"error": a `load_errors.Kind` or null} where it failed. It ends when its standard input is closed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from filelock import FileLock

from backend.device.hub import HubFiles, network_error
from backend.device.load_errors import DamagedError, kind_of

_AT_ONCE = 4
"""Files that are fetched side by side; a server may limit the speed of one connection."""
_REPORT_SECONDS = 0.25
_CHUNK_BYTES = 2**18
"""What is written, and counted, at once."""
_TRIES = 5
"""Broken connections in a row without a byte between them."""

Report = Callable[[dict[str, Any]], None]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, and this ends with it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    error: Exception | None = None
    try:
        fetch(HubFiles(**json.loads(sys.argv[1])), _print)
    except Exception as raised:  # noqa: BLE001 - the process's edge: told to whoever started it
        error = raised
        kind = kind_of(raised)
        if kind is None:
            traceback.print_exc()
        _print({"error": kind, "detail": str(raised)[:300]})
    os._exit(0 if error is None else 1)  # other files' threads may wait for the network


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def fetch(files: HubFiles, report: Report) -> None:
    """Download what is missing.

    Raises:
        OSError, hub.network_error(): from the hub, the network or the disk.
    """
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
    info = HfApi().model_info(files.repository, revision=files.revision, files_metadata=True)
    commit = str(info.sha)
    wanted = set(files.choose(file.rfilename for file in info.siblings or ()))
    missing = [
        _File(files.repository, commit, file)
        for file in info.siblings or ()
        if file.rfilename in wanted
        and not isinstance(try_to_load_from_cache(files.repository, file.rfilename, revision=commit), str)
    ]
    progress = _Progress(sum(file.size for file in missing), report)
    progress.add(sum(file.held() for file in missing))
    _check_room(missing)
    _all([lambda file=file: file.fetch(progress) for file in missing])  # type: ignore[misc]
    progress.finish()
    # Every blob is here now: this links them into the snapshot, as all programs that use the cache expect it.
    snapshot_download(files.repository, revision=files.revision, allow_patterns=sorted(wanted))
    for file in missing:
        file.forget_copy()


def _check_room(missing: Iterable[_File]) -> None:
    """Before the first byte, because the last one may be hours away."""
    from huggingface_hub import constants

    need = sum(file.size - file.held() for file in missing)
    place = Path(constants.HF_HUB_CACHE)
    place.mkdir(parents=True, exist_ok=True)
    if need > shutil.disk_usage(place).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _all(jobs: Iterable[Callable[[], None]]) -> None:
    """Run them, a few at once; what one raises is raised at once."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    done, _ = wait([pool.submit(job) for job in jobs], return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


class _Progress:
    """Counts bytes; thread-safe."""

    def __init__(self, total: int, report: Report) -> None:
        self.total = total
        self._report = report
        self._guard = threading.Lock()
        self._done = 0
        self._last = 0.0

    def add(self, count: int) -> None:
        with self._guard:
            self._done += count
            if time.monotonic() - self._last >= _REPORT_SECONDS:
                self._last = time.monotonic()
                self._report({"done": self._done, "total": self.total})

    def finish(self) -> None:
        with self._guard:
            self._report({"done": self._done, "total": self.total})

    def bar(self) -> type[Any]:
        """A class for `http_get` that it takes for tqdm."""
        add = self.add

        class Bar:
            def __init__(self, **_: object) -> None:
                """`initial`, what is held already, was counted before."""

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, count: float) -> None:
                add(int(count))

        return Bar


class _File:
    """One file on its way: `blobs/DIGEST.partial` in the cache, then `blobs/DIGEST`."""

    def __init__(self, repository: str, commit: str, listed: Any) -> None:
        """`listed`: the hub's RepoSibling, with metadata."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self.repository = repository
        self.commit = commit
        self.name: str = listed.rfilename
        self.size: int = listed.size
        self._is_large = listed.lfs is not None
        self._digest: str = listed.lfs.sha256 if listed.lfs else listed.blob_id
        folder = repo_folder_name(repo_id=repository, repo_type="model")
        cache = Path(constants.HF_HUB_CACHE)
        self._snapshot = cache / folder / "snapshots" / commit / self.name
        self.blob = cache / folder / "blobs" / self._digest
        self._partial = self.blob.with_name(f"{self._digest}.partial")
        self._lock = cache / ".locks" / folder / f"{self._digest}.lock"
        """The one that huggingface_hub takes for this blob."""

    def held(self) -> int:
        """Bytes that are here already."""
        if self.blob.exists():
            return self.size
        held = self._partial.stat().st_size if self._partial.exists() else 0
        return held if held <= self.size else 0

    def fetch(self, progress: _Progress) -> None:
        for place in (self.blob, self._lock):
            place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock, mode=0o664):  # the hub's mode, for users who share a cache
            for _ in range(2):
                if self.blob.exists():
                    return
                self._complete(progress)
                if self._is_intact():
                    self._partial.replace(self.blob)
                    return
                progress.add(-self._partial.stat().st_size)
                self._partial.unlink()
        raise DamagedError(f"{self.name} of {self.repository} arrives with another digest than the hub's.")

    def _complete(self, progress: _Progress) -> None:
        """Ask for the bytes that are missing, again after each broken connection that brought some."""
        from huggingface_hub.errors import HfHubHTTPError

        tries = 0
        while (before := self.held()) < self.size or not self._partial.exists():
            try:
                self._ask(before, progress)
            except network_error() as error:
                tries = tries + 1 if self.held() == before else 0
                if isinstance(error, HfHubHTTPError) or tries == _TRIES:
                    raise

    def _ask(self, held: int, progress: _Progress) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        with self._partial.open("r+b" if held else "wb") as file:
            file.seek(held)
            http_get(
                hf_hub_url(self.repository, self.name, revision=self.commit),
                file,
                resume_size=held,
                headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                expected_size=self.size,
                tqdm_class=progress.bar(),
            )

    def _is_intact(self) -> bool:
        """Large files are known by their SHA-256, the others as git knows a blob."""
        with self._partial.open("rb") as file:
            if self._is_large:
                return hashlib.file_digest(file, "sha256").hexdigest() == self._digest
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            digest.update(file.read())
            return digest.hexdigest() == self._digest

    def forget_copy(self) -> None:
        """Where the disk knows no links, the snapshot holds a copy, and one is enough."""
        if self._snapshot.exists() and not self._snapshot.is_symlink():
            self.blob.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

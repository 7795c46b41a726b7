"""Models that are fetched in the background while the page is used with another one.

Beside the jobs, which fetch what they need themselves: both follow the same download (see `device/downloads.py`).
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from backend.device import hub
from backend.device.hub import Part
from backend.device.loading import Loader
from backend.errors import Cancelled, LatentRelayError
from backend.events import Downloading
from backend.message import Message
from backend.models import ModelSpec

log = logging.getLogger(__name__)

PARTS: tuple[Part, ...] = ("VAE", "denoiser")
OWNER = "owner"
"""Who asked for a model by a flag or a variable, and not on the page."""

Status = Literal["absent", "running", "here", "failed"]
_Key = tuple[str, tuple[Part, ...]]


@dataclass(frozen=True)
class ModelDownload:
    """Where a model's weights are, and how their download goes. Unknown numbers are None."""

    status: Status
    total: int | None = None
    """Bytes."""
    done: int | None = None
    speed: float | None = None
    """Bytes a second, at present or, before it begins, of the latest download."""
    failure: Message | None = None
    asked_by: frozenset[str] = frozenset()

    @property
    def seconds_left(self) -> float | None:
        """At that speed."""
        if self.total is None or not self.speed:
            return None
        return (self.total - (self.done or 0)) / self.speed


@dataclass
class _Run:
    """One try to fetch a model, for as long as somebody wants it."""

    stop: threading.Event = field(default_factory=threading.Event)
    asked_by: set[str] = field(default_factory=set)


class ModelDownloads:
    """Thread-safe; returns at once, whatever the network does."""

    def __init__(self, loader: Loader) -> None:
        self.looking = False
        """Whether it is still being found out what to offer."""
        self.offered: ModelSpec | None = None
        """One that would run well here but is not on this computer; None: there is none, or nobody knows yet."""
        self._loader = loader
        self._guard = threading.Lock()
        self._runs: dict[_Key, _Run] = {}
        self._seen: dict[_Key, ModelDownload] = defaultdict(lambda: ModelDownload("absent"))
        """What there is to say of what is not here."""

    def state(self, spec: ModelSpec, parts: tuple[Part, ...] = PARTS) -> ModelDownload:
        if not self._loader.missing(spec, parts):
            return ModelDownload("here")
        key = spec.name, parts
        with self._guard:
            seen = self._seen[key]
            if run := self._runs.get(key):
                return replace(seen, status="running", asked_by=frozenset(run.asked_by))
        return replace(seen, speed=seen.speed or self._loader.downloads.last_speed)

    def measure(self, spec: ModelSpec) -> Mapping[str, int] | None:
        """Bytes of the model's weights by component, as the hub says; None if it does not. Waits for the network."""
        sizes = hub.weight_bytes(spec, PARTS, hub.hub_listing)
        if sizes is None:
            return None
        total = sum(sizes.values())
        with self._guard:
            seen = self._seen[spec.name, PARTS]
            if seen.total is None:  # else a download has said it, and exactly
                self._seen[spec.name, PARTS] = replace(seen, total=total)
        return sizes

    def start(self, spec: ModelSpec, who: str, parts: tuple[Part, ...] = PARTS) -> None:
        """Fetch a model for `who`, or let `who` join those who wait for it."""
        key = spec.name, parts
        with self._guard:
            if run := self._runs.get(key):
                run.asked_by.add(who)
                return
            run = self._runs[key] = _Run(asked_by={who})
            self._seen[key] = replace(self._seen[key], status="absent", failure=None)
        work = threading.Thread(
            target=self._fetch, args=(spec, parts, run), name="model-download", daemon=True
        )
        work.start()

    def stop(self, spec: ModelSpec, who: str) -> None:
        """`who` does not want it any more. It ends within a moment, unless somebody else asked for it, too."""
        key = spec.name, PARTS
        with self._guard:
            run = self._runs.get(key)
            if run is None:
                return
            run.asked_by.discard(who)
            if run.asked_by:
                return
            del self._runs[key]  # so that the next `start` is a new one, which goes on from here
        run.stop.set()

    def leave(self, who: str) -> None:
        """`who` has closed the page. What was begun goes on, and whoever is left may stop it."""
        with self._guard:
            for run in self._runs.values():
                run.asked_by.discard(who)

    def _fetch(self, spec: ModelSpec, parts: tuple[Part, ...], run: _Run) -> None:
        failure: Message | None = None
        key = spec.name, parts

        def see(event: Downloading) -> None:
            with self._guard:
                if self._runs.get(key) is run:
                    self._seen[key] = replace(
                        self._seen[key], total=event.total, done=event.done, speed=event.bytes_per_second
                    )

        try:
            self._loader.fetch(spec, parts, see, run.stop)
        except Cancelled:
            log.info("download stopped", extra={"model": spec.name})
        except LatentRelayError as error:
            failure = error.full_message
            log.warning("download failed: %s", error, extra={"model": spec.name, "code": error.code})
        with self._guard:
            if self._runs.get(key) is run:
                del self._runs[key]
                status: Status = "failed" if failure else "absent"
                self._seen[key] = replace(self._seen[key], status=status, failure=failure)

"""What everything that runs in this process shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.device.loading import Loader
from backend.events import Event, Waiting
from backend.message import Message
from backend.placement.planner import Planner
from backend.run.model_downloads import ModelDownloads
from backend.settings import Settings

Notify = Callable[[Event], None]
"""Is given each event as it happens."""


def ignore(_: Event) -> None:
    """For a caller who wants no events."""


@dataclass
class ExecutionContext:
    """One for each app. Everything in it is thread-safe."""

    settings: Settings
    loader: Loader
    planner: Planner
    self_url: str | None = None
    """Base URL of this app once it listens, e.g. http://127.0.0.1:7860."""
    downloads: ModelDownloads = field(init=False)

    def __post_init__(self) -> None:
        self.downloads = ModelDownloads(self.loader)


def waiting(ahead: int) -> Waiting:
    """What a person reads while `ahead` others use the device."""
    if ahead == 1:
        return Waiting(Message("Waiting for 1 other to finish"))
    return Waiting(Message("Waiting for {ahead} others to finish", ahead=ahead))

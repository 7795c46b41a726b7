"""What all tabs of the page share: what they are built from, and what they give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from backend.studio import Studio
from ui.runs import Runs
from ui.user_endpoints import UserEndpoints


@dataclass(frozen=True)
class PageContext:
    """One for each page; every tab's `build` takes it."""

    studio: Studio
    runs: Runs
    endpoints: UserEndpoints


class Tab(Protocol):
    """A frozen dataclass of widgets, laid out by its module's `build(context, …)`."""

    def wire(self) -> None:
        """Connect the widgets; called once all tabs are laid out."""

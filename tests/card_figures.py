"""A card's figures without a card: what torch says of its memory, name and age, and a Loader that decides by them.

The networks stay on the processor, so everything runs to its end; only decisions are those of a machine with a card.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend.device.loading import Loader
from backend.device.offload import Offload
from backend.settings import Settings

GB = 10**9
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 MiB.")


@dataclass
class CardFigures:
    """Change them while a test runs."""

    name: str = "NVIDIA GeForce RTX 4090"
    capability: tuple[int, int] = (8, 9)
    total: int = 24 * GB
    free: int = 23 * GB
    used: list[int] = field(default_factory=list)
    """Numbers of the cards that were made the current one."""
    emptied: list[str] = field(default_factory=list)
    """Caches that were given back."""

    def pretend(self, patch: pytest.MonkeyPatch) -> None:
        @contextlib.contextmanager
        def device(which: Any) -> Iterator[None]:
            self.used.append(torch.device(which).index)
            yield

        replaced = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device": device,
            "get_device_name": lambda _=None: self.name,
            "get_device_capability": lambda _=None: self.capability,
            "get_device_properties": lambda _=None: SimpleNamespace(total_memory=self.total),
            "mem_get_info": lambda _=None: (self.free, self.total),
            "memory_reserved": lambda _=None: 0,
            "memory_allocated": lambda _=None: 0,
            "max_memory_allocated": lambda _=None: 0,
            "reset_peak_memory_stats": lambda _=None: None,
            "synchronize": lambda _=None: None,
            "empty_cache": lambda: self.emptied.append("card"),
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch._C, "_host_emptyCache", lambda: self.emptied.append("pinned"), raising=False)


class CardLoader(Loader):
    """Loads for a card. `full` names what runs out of memory while it is put there: a rung, or "VAE"; each once."""

    def __init__(self, settings: Settings, *full: str) -> None:
        super().__init__(settings)
        self._device = torch.device("cuda", 0)
        self.full = list(full)
        self.placed: list[Offload] = []

    def _moved(self, module: Any) -> Any:
        self._fill("VAE")
        return module

    def _placed(self, pipeline: Any, chosen: Offload) -> Any:
        self.placed.append(chosen)
        self._fill(chosen.low_memory)
        return pipeline

    def _fill(self, what: str) -> None:
        if what in self.full:
            self.full.remove(what)
            raise OUT_OF_MEMORY

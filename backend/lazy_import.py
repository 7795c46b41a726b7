"""Imports of large libraries: diffusers late, with the first piece of work, and no garbage collection meanwhile."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Python's collector looks for cycles again and again while an import makes hundreds of thousands of objects that
    all stay. Whoever finds it switched off leaves it so."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def diffusers_class(name: str) -> Any:
    """The class of that name, of diffusers; the first one imports nearly all of diffusers and transformers.

    Several threads may ask at once. diffusers puts another object in its own place at the end of its import; a thread
    that waited for that import with a plain `import` or `from … import` is handed the old, empty one.
    """
    with _lock, garbage_collection_paused():
        importlib.import_module("diffusers")
        return getattr(sys.modules["diffusers"], name)

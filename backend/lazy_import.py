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

    What is there after the first import is left out of all later garbage collections: half a million objects that stay,
    for which every full collection held up all threads, the page's event loop too, by 0.4 s, and came so seldom that
    garbage piled up meanwhile. No model can have been loaded by then, so none is kept from being freed.
    """
    with _lock, garbage_collection_paused():
        first = "diffusers" not in sys.modules
        importlib.import_module("diffusers")
        found = getattr(sys.modules["diffusers"], name)
        if first:
            gc.freeze()
        return found

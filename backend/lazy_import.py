"""Libraries that are imported late, with the first piece of work, and then perhaps by several threads at once."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

_lock = threading.Lock()


def import_module_locked(name: str) -> ModuleType:
    """The module of that name.

    diffusers puts another object in its own place at the end of its import; a thread that waited for that import with
    a plain `import` or `from … import` is handed the old, empty one.
    """
    with _lock:
        importlib.import_module(name)
        return sys.modules[name]

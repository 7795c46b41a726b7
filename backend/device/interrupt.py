"""Stopping inside a forward pass, not just between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backend.errors import Cancelled


def raise_if_stopped(stop: threading.Event | None) -> None:
    """Raises Cancelled once `stop` is set."""
    if stop is not None and stop.is_set():
        raise Cancelled("Stopped, as you asked.")


@contextmanager
def interruptible(module: Any, stop: threading.Event | None) -> Iterator[None]:
    """While inside, every block of a torch module checks `stop` before it computes.

    The blocks are the members of its ModuleLists (resnets, attentions, up and down blocks): fine enough to answer
    within a fraction of a step, few enough to cost nothing measurable.
    """
    if stop is None or module is None:
        yield
        return
    from torch.nn import ModuleList

    def check(*_: object) -> None:
        raise_if_stopped(stop)

    hooks = [
        block.register_forward_pre_hook(check)
        for members in module.modules()
        if isinstance(members, ModuleList)
        for block in members
        if block is not None  # a mid block without attention holds None in its place
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

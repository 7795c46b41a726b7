"""What one check found out: data, with a message for a person."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.errors import Cancelled, LatentRelayError
from backend.message import Message, literal

log = logging.getLogger(__name__)

Status = Literal["ok", "note", "problem"]
"""As it should be; good to know, and nothing is wrong; something does not work."""


@dataclass(frozen=True)
class Finding:
    check: str
    """The check's name in the JSON, such as "card"."""
    status: Status
    message: Message
    figures: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready; bytes and seconds. None is unknown."""


def run_check(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The check's findings; a check that fails is a problem of its own, and the others go on.

    Raises:
        Cancelled: the person stopped it.
    """
    try:
        yield from check()
    except Cancelled:
        raise
    except LatentRelayError as error:
        yield Finding(name, "problem", error.full_message)
    except Exception as error:
        log.exception("The check %s failed", name)
        reason = literal(f"{type(error).__name__}: {error}")
        yield Finding(name, "problem", Message("This check itself failed: {reason}.", reason=reason))

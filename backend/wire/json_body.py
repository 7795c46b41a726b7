"""JSON from outside: how much of it there is and how deep it goes is counted before it is parsed.

Parsing holds the interpreter's lock, and 60 MB of `[],[],…` become four gigabytes of lists; one level in another costs
a stack frame. The counts take one pass over the bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from backend.errors import WireError

MAX_VALUES = 20_000
"""Values and keys in one body, roughly; no body of the page or of the protocol's clients has a tenth of it."""
MAX_DEPTH = 32
"""Lists and objects inside each other."""

# A string that is not closed ends with the body, so that the search never begins again inside it.
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def check_json(body: bytes) -> None:
    """Refuse JSON that would cost far more than its length.

    Raises:
        WireError: too many values, too deep, or not in UTF-8 (whose text is what is counted here).
    """
    if sum(body.count(mark) for mark in (b"[", b"{", b",", b":", b'"')) > MAX_VALUES:
        raise WireError("The JSON in the body has more than the {limit} values allowed.", limit=MAX_VALUES)
    if b"\0" in body:
        raise WireError("The JSON in the body must be in UTF-8.")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise WireError(
            "The JSON in the body is nested deeper than the {limit} levels allowed.", limit=MAX_DEPTH
        )


def read_json(body: bytes) -> Any:
    """The body as JSON.

    Raises:
        WireError: it is none, or has too much in it.
    """
    check_json(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("The body is no JSON, or was cut off on its way.") from None


def _depth(body: bytes) -> int:
    """How many lists and objects are open at once, at most; brackets in strings are text."""
    deepest = depth = 0
    for found in _STRING_OR_BRACKET.finditer(body):
        mark = body[found.start()]
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest

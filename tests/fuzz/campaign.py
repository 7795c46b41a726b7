"""Sends attacks, judges what comes back, and counts."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.fuzz.attacks import Attack

PATIENCE = 20.0
"""Seconds that a sound request may take on a busy machine."""
SHORT_PATIENCE = 0.3
"""Seconds to wait on what breaks HTTP itself: the server may rightly wait for the rest."""
SLOW = 2.0
LEAKS = ("Traceback", "site-packages", ".py", "backend/", "/home/", "/root/", "0x7f")
"""What an answer must never reveal: where the server lives and how it is made."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Tally:
    """What came back so far; `findings` must stay empty."""

    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slow: list[tuple[float, str]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def add(self, what: str, status: str, seconds: float, finding: str | None) -> None:
        self.statuses[status] += 1
        if seconds > SLOW:
            self.slow.append((seconds, what))
        if finding is not None:
            self.findings.append(f"{finding}: {what}")


def attack(url: str, wrong: Attack, tally: Tally) -> None:
    """Send one attack and add what came of it."""
    started = time.monotonic()
    try:
        answer = exchange(url, wrong)
    except (OSError, http.client.HTTPException) as error:
        finding = (
            f"no answer ({type(error).__name__})" if wrong.well_formed and not _ambiguous(wrong) else None
        )
        tally.add(str(wrong), "none", time.monotonic() - started, finding)
        return
    tally.add(str(wrong), str(answer.status), time.monotonic() - started, judge(wrong, answer))


def exchange(url: str, wrong: Attack) -> Answer:
    """One request on a connection of its own, written by hand so that it may break any rule."""
    parts = urlsplit(url)
    patience = PATIENCE if wrong.well_formed and not _ambiguous(wrong) else SHORT_PATIENCE
    with socket.create_connection((parts.hostname, parts.port), timeout=patience) as connection:
        # A server may refuse before all was sent; the answer is there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(wrong.as_bytes())
        with http.client.HTTPResponse(connection, method=wrong.method) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())


def judge(wrong: Attack, answer: Answer) -> str | None:
    """What is wrong with an answer, None if nothing is."""
    if answer.status >= 500:
        return f"status {answer.status}"
    if answer.status < 400 or wrong.method == "HEAD":
        return None
    text = answer.body.decode("utf-8", "replace")
    if text == "Invalid HTTP request received.":
        return None  # uvicorn's own, for what is no HTTP
    if "json" not in answer.headers.get("content-type", ""):
        return f"status {answer.status} as {answer.headers.get('content-type')}"
    document = json.loads(answer.body)
    if not {"error", "code", "hint", "request_id"} <= set(document) or not document["error"]:
        return f"an error that says {sorted(document)}"
    leaked = [
        sign for sign in LEAKS if sign in text and sign not in str(wrong) + wrong.body.decode("latin-1")
    ]
    return f"it reveals {leaked}" if leaked else None


def _ambiguous(wrong: Attack) -> bool:
    """Two lengths, an upgrade, or a header that HTTP forbids: a server may answer by closing."""
    names = {name for name, _ in wrong.headers}
    odd = any(not value.isprintable() or not value.isascii() for _, value in wrong.headers)
    return odd or bool(names & {"transfer-encoding", "upgrade", "expect", "host"})

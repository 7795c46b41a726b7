"""The faults, and what each must come to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
import trustme

from backend.errors import (
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from backend.wire import pack_tensor
from tests.faults import server
from tests.faults.server import Reply, Spoil, Spoiler

HTML = b"<!doctype html><html><script>alert(1)</script><h1>Bad gateway</h1></html>"
SHORT = 3.0
"""Seconds a stage may take where the fault is that it takes too long; real ones get 120."""


@dataclass(frozen=True)
class Expected:
    """`kind` None: it succeeds after all. `tries`: how often the picture is posted, None where time decides."""

    kind: type[RemoteError] | None
    phrase: str = ""
    tries: int | None = 1


@dataclass(frozen=True)
class Fault:
    """`spoil` what the server does, or `place` a context manager giving the URL of something worse."""

    title: str
    expected: Expected
    spoil: Spoil | None = None
    place: Callable[[], AbstractContextManager[str]] | None = None
    timeout: float = 30.0
    stages: tuple[str, ...] = ("encode", "decode")
    exceptions: dict[str, Expected] = field(default_factory=dict)
    """Where one stage comes to something else."""

    def expects(self, stage: str) -> Expected:
        return self.exceptions.get(stage, self.expected)

    @contextlib.contextmanager
    def serve(self, real: str, *, sound_at_first: bool = False) -> Iterator[tuple[str, Spoiler | None]]:
        """(base URL, the spoiler if there is one)."""
        if self.spoil is None:
            assert self.place is not None
            with self.place() as url:
                yield url, None
            return
        spoiler = Spoiler(real, self.spoil, sound_at_first=sound_at_first)
        with server.spoiling(spoiler) as url:
            yield url, spoiler


@contextlib.contextmanager
def _unknown_name() -> Iterator[str]:
    yield "http://nowhere.invalid"


@contextlib.contextmanager
def _untrusted() -> Iterator[str]:
    leaf = trustme.CA().issue_cert("127.0.0.1")
    with server.spoiling(Spoiler("http://127.0.0.1:9", server.says(200)), leaf) as url:
        yield url


@contextlib.contextmanager
def _no_tls() -> Iterator[str]:
    with server.spoiling(Spoiler("http://127.0.0.1:9", server.says(200))) as url:
        yield url.replace("http:", "https:")


def _headers(**changes: str) -> Spoil:
    return server.changed(lambda reply: replace(reply, headers={**reply.headers, **changes}))


def _shorter(reply: Reply) -> Reply:
    body = reply.body[:-8]
    return Reply(200, {**reply.headers, "content-length": str(len(body))}, body)


def _longer(reply: Reply) -> Reply:
    body = reply.body + bytes(200_000)
    return Reply(200, {**reply.headers, "content-length": str(len(body))}, body)


def _not_numbers(reply: Reply) -> Reply:
    latents = torch.full(json.loads(reply.headers["shape"]), torch.nan)
    return Reply(200, reply.headers, pack_tensor(latents))


def _refused(phrase: str) -> Expected:
    return Expected(RemoteRefusedError, phrase)


WAITED = Expected(RemoteRefusedError, "busy or still starting", tries=None)

FAULTS = (
    Fault(
        "Connection refused",
        Expected(RemoteUnreachableError, "Nothing answers at"),
        place=server.refusing,
        timeout=2 * SHORT,
    ),
    Fault(
        "Name that no DNS server knows",
        Expected(RemoteUnreachableError, "No computer called nowhere.invalid"),
        place=_unknown_name,
    ),
    Fault(
        "TLS: certificate of an unknown authority",
        Expected(RemoteUnreachableError, "certificate of https"),
        place=_untrusted,
    ),
    Fault(
        "TLS: the other side does not speak it",
        Expected(RemoteUnreachableError, "secure connection to https"),
        place=_no_tls,
    ),
    Fault(
        "No answer", Expected(RemoteTimeoutError, "did not answer within 3 s"), server.silent, timeout=SHORT
    ),
    Fault(
        "Slow drip",
        Expected(RemoteTimeoutError, "did not answer within 3 s"),
        server.dripping,
        timeout=SHORT,
    ),
    Fault("401", _refused("wants a token"), server.says(401)),
    Fault("403", _refused("does not let us in"), server.says(403)),
    Fault("404", _refused("There is no VAE at"), server.says(404, HTML, content_type="text/html")),
    Fault(
        "413",
        _refused("too large for the endpoint"),
        server.says(413, b'{"error": "More than 4096 pixels."}', content_type="application/json"),
    ),
    Fault(
        "429, no Retry-After",
        Expected(RemoteRefusedError, "too many requests", tries=None),
        server.says(429),
        timeout=SHORT,
    ),
    Fault(
        "429 once, Retry-After: 1",
        Expected(None, tries=2),
        server.says(429, times=1, retry_after="1"),
    ),
    Fault("500", _refused("error 500"), server.says(500, HTML, content_type="text/html")),
    Fault("502", Expected(RemoteRefusedError, "error 502", tries=None), server.says(502), timeout=SHORT),
    Fault("503, no Retry-After", WAITED, server.says(503), timeout=SHORT),
    Fault(
        "503, Retry-After: 60 (past the deadline)",
        replace(WAITED, tries=1),
        server.says(503, retry_after="60"),
    ),
    Fault(
        "503 twice, Retry-After: 0, then awake",
        Expected(None, tries=3),
        server.says(503, times=2, retry_after="0"),
    ),
    Fault(
        "HTML with status 200",
        Expected(RemoteReplyError, "a web page"),
        server.says(200, HTML, content_type="text/html"),
    ),
    Fault("Body truncated", Expected(RemoteReplyError, "was cut off", tries=2), server.truncated),
    Fault("Body shorter than its shape", Expected(RemoteReplyError, "bytes, but"), server.changed(_shorter)),
    Fault(
        "Body longer than was asked for",
        Expected(RemoteReplyError, "sent more than"),
        server.changed(_longer),
    ),
    Fault("Unknown dtype in the header", Expected(RemoteReplyError, "not served"), _headers(dtype="int64")),
    Fault("Wrong dtype in the header", Expected(RemoteReplyError, "bytes, but"), _headers(dtype="bfloat16")),
    Fault(
        "Wrong shape in the header",
        Expected(RemoteReplyError, "16"),
        _headers(shape="[1, 16, 2, 12]"),
        exceptions={"decode": Expected(RemoteReplyError, "bytes, but")},
    ),
    Fault(
        "NaN values",
        Expected(RemoteReplyError, "sent NaN or infinite values"),
        server.changed(_not_numbers),
        stages=("encode",),  # a picture comes back as bytes, which are always numbers
    ),
    Fault(
        "Redirect to another host",
        _refused("has moved to http://elsewhere.example"),
        server.says(307, location="http://elsewhere.example/vae?token=x"),
    ),
    Fault(
        "Connection reset, every time",
        Expected(RemoteUnreachableError, "broke", tries=None),
        server.reset,
        timeout=2 * SHORT,
    ),
    Fault("Connection dropped half-way, once", Expected(None, tries=2), server.dropped),
    Fault(
        "Endpoint killed under the request, back after a second",
        Expected(None, tries=2),
        server.restarting(1.0),
    ),
)

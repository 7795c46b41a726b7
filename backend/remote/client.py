"""One HTTP request to an endpoint: kept connections, a total deadline, retries where they help, a stop button."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import requests
from urllib3.util.retry import RequestHistory, Retry

from backend import wire
from backend.errors import Cancelled, LatentRelayError, RemoteError, RemoteReplyError, RemoteTimeoutError
from backend.logs import HEADER, clean_id
from backend.message import Message
from backend.remote.failures import RETRIABLE, Transient, cut_off, mapped, refusal, timed_out
from backend.remote.net import AbortHandle, redact_url, seen_origins
from backend.token import Token, origin

CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.05
_CHUNK_BYTES = 2**18
_MAX_ERROR_BYTES = 2**16

RETRIES = Retry(
    total=None,
    connect=3,
    read=1,
    status=60,
    backoff_factor=0.5,
    backoff_max=15,
    status_forcelist=RETRIABLE,
    allowed_methods=None,
    respect_retry_after_header=True,
)
"""Decoding is a pure function, so posting it again does no harm. A 4xx other than 429 is never tried again."""

NO_RETRIES = RETRIES.new(connect=0, read=0, status=0)

RESTART_TRIES = 7
"""At a server that answered before and is gone now, and so is probably starting again: some 45 seconds."""


@dataclass(frozen=True)
class HttpReply:
    """A reply with status 200: header names in lower case, the whole body."""

    url: str
    """Of the endpoint, without query or credentials."""
    headers: dict[str, str]
    body: bytes
    attempts: int
    """How many requests it took."""

    @property
    def request_id(self) -> str | None:
        """What the endpoint calls this request in its log."""
        return clean_id(self.headers.get(HEADER))


@dataclass(frozen=True)
class EndpointClient:
    """How endpoints are called."""

    session: requests.Session
    timeout: float = 120.0
    """Seconds for everything together, retries and waits included."""
    token: Token | None = None
    stop: threading.Event | None = None
    notify: Callable[[Message], None] = lambda _: None
    """Gets a message before each wait for another try."""
    retries: Retry = RETRIES
    request_id: str | None = None
    """Sent along, so that the endpoint's log can be searched for it; an endpoint that knows no ids ignores it."""

    def get(self, url: str, max_bytes: int) -> HttpReply:
        """As `post`, without a body and tried once."""
        once = replace(self, retries=NO_RETRIES)
        return once._request("GET", url, wire.HttpRequest((), {}, b""), max_bytes)

    def post(self, url: str, request: wire.HttpRequest, max_bytes: int) -> HttpReply:
        """Post `request` and return the reply, of at most `max_bytes`.

        Raises:
            Cancelled: `stop` was set. RemoteError: one of its kinds, with a sentence for a person.
        """
        return self._request("POST", url, request, max_bytes)

    def _request(self, method: str, url: str, request: wire.HttpRequest, max_bytes: int) -> HttpReply:
        deadline = time.monotonic() + self.timeout
        retries = self.retries
        if retries.connect and origin(url) in seen_origins(self.session):
            retries = retries.new(connect=max(retries.connect, RESTART_TRIES))
        attempts = 0
        last_error: RemoteError | None = None
        """The latest status, else the latest failure: it says more than that the time was up during one more try."""
        while True:
            attempts += 1
            send = partial(self._send, method, url, request, max_bytes, deadline, attempts)
            try:
                return self._abortable(send, deadline, url)
            except RemoteTimeoutError as error:
                raise last_error or error from error.__cause__
            except Transient as failure:
                if last_error is None or last_error.status is None or failure.kind == "status":
                    last_error = failure.error
                retries, seconds = _next_try(retries, failure)
                if seconds is None or time.monotonic() + seconds >= deadline:
                    raise last_error from last_error.__cause__
                self.notify(
                    Message(
                        "{reason}; trying again in {seconds} s ({spent} s so far)",
                        reason=failure.reason,
                        seconds=max(1, round(seconds)),
                        spent=round(self.timeout - (deadline - time.monotonic())),
                    )
                )
                self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        if self.stop is None:
            time.sleep(seconds)
        elif self.stop.wait(seconds):
            raise Cancelled("Stopped while waiting for the endpoint.")

    def _abortable(self, send: Callable[[], HttpReply], deadline: float, url: str) -> HttpReply:
        """Run `send` in a thread of its own, because a blocked socket can look neither at `stop` nor at the clock.

        A socket's own timeout is for each read, so a reply that drips byte by byte would never run into it.
        """
        future: Future[HttpReply] = Future()
        handle = AbortHandle()

        def run() -> None:
            with handle:
                try:
                    future.set_result(send())
                except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                    future.set_exception(error)

        threading.Thread(target=run, name="remote-request", daemon=True).start()
        while not wait([future], _POLL_SECONDS).done:
            if self.stop is not None and self.stop.is_set():
                handle.abort()
                raise Cancelled("Stopped while the endpoint was working.")
            if time.monotonic() > deadline:
                handle.abort()
                raise timed_out(redact_url(url), self.timeout)
        return future.result()

    def _send(
        self, method: str, url: str, request: wire.HttpRequest, max_bytes: int, deadline: float, attempts: int
    ) -> HttpReply:
        where = redact_url(url)
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise timed_out(where, self.timeout)
        headers = dict(request.headers)
        if self.request_id is not None:
            headers[HEADER] = self.request_id
        token = self.token.for_url(url) if self.token is not None else None
        if token:
            headers["authorization"] = f"Bearer {token}"
        try:
            with self.session.request(
                method,
                url,
                params=list(request.query),
                data=request.body,
                headers=headers,
                timeout=(min(CONNECT_SECONDS, seconds_left), seconds_left),
                allow_redirects=False,
                stream=True,
            ) as response:
                seen_origins(self.session).add(origin(url))
                request_id = clean_id(response.headers.get(HEADER))
                body = _read(response, max_bytes, deadline, where, request_id)
                if response.status_code != 200:
                    # The body is quoted to a visitor, and some proxies put the whole request into it.
                    quotable = body.replace(token.encode(), b"...") if token else body
                    raise refusal(response, quotable, where, request_id)
                lower = {key.lower(): value for key, value in response.headers.items()}
                return HttpReply(where, lower, body, attempts)
        except LatentRelayError:
            raise
        except (requests.RequestException, OSError, ValueError) as error:
            raise mapped(error, where, self.timeout) from error


def _next_try(retries: Retry, failure: Transient) -> tuple[Retry, float | None]:
    """urllib3's bookkeeping for one more failure: (what is left, seconds to wait or None for no more tries)."""
    left = getattr(retries, failure.kind)
    if left <= 0:
        return retries, None
    spent: dict[str, Any] = {failure.kind: left - 1}
    following = retries.new(
        **spent, history=(*retries.history, RequestHistory("POST", None, None, None, None))
    )
    seconds = failure.retry_after
    return following, max(0.25, following.get_backoff_time()) if seconds is None else seconds


def _read(
    response: requests.Response, max_bytes: int, deadline: float, where: str, request_id: str | None
) -> bytes:
    """The body: all of a good reply, and the beginning of an error."""
    is_good = response.status_code == 200
    limit = max_bytes if is_good else _MAX_ERROR_BYTES
    chunks, size = [], 0
    for chunk in response.iter_content(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit and is_good:
            raise RemoteReplyError(
                "The endpoint at {where} sent more than the {limit} bytes that were asked for.",
                "It is probably not a VAE endpoint.",
                url=where,
                request_id=request_id,
                where=where,
                limit=limit,
            )
        if time.monotonic() > deadline:
            raise requests.Timeout
        chunks.append(chunk)
        if size > limit:
            break
    body = b"".join(chunks)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and len(body) < int(announced) and is_good:
        sentence = Message(
            "The answer of {where} was cut off: {received} of {announced} bytes came.",
            where=where,
            received=len(body),
            announced=announced,
        )
        raise cut_off(sentence, where, request_id)
    return body

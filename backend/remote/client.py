"""One POST to an endpoint: kept connections, a total deadline, retries where they help, a stop button.

requests' and urllib3's errors become ours here and nowhere else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import requests
from urllib3.exceptions import InvalidHeader, NameResolutionError, NewConnectionError
from urllib3.util.retry import RequestHistory, Retry

from backend.errors import (
    Cancelled,
    LatentRelayError,
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from backend.logs import HEADER, clean_id
from backend.remote.net import AbortHandle, redact_url, seen_origins
from backend.token import Token, origin
from backend.wire import HttpRequest

CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_CHUNK = 2**18

RETRIES = Retry(
    total=None,
    connect=3,
    read=1,
    status=60,
    backoff_factor=0.5,
    backoff_max=15,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    respect_retry_after_header=True,
)
"""Decoding is a pure function, so posting it again does no harm. A 4xx other than 429 is never tried again."""

RESTART_TRIES = 7
"""At a server that answered before and is gone now, and so is probably starting again: some 45 seconds."""


@dataclass(frozen=True)
class Answer:
    """A good reply: header names in lower case, the whole body, and how many posts it took."""

    headers: dict[str, str]
    body: bytes
    attempts: int
    seconds: float
    """From the post that succeeded to its last byte."""

    @property
    def request_id(self) -> str | None:
        """What the endpoint calls this request in its log."""
        return clean_id(self.headers.get(HEADER))


@dataclass(frozen=True)
class Caller:
    """How to post; `notify` gets a sentence whenever the wait has a reason worth telling."""

    session: requests.Session
    timeout: float = 120.0
    """Seconds for everything together, retries and waits included."""
    token: Token | None = None
    stop: threading.Event | None = None
    notify: Callable[[str], None] = lambda _: None
    retries: Retry = RETRIES
    request_id: str | None = None
    """Sent along, so that the endpoint's log can be searched for it; an endpoint that knows no ids ignores it."""

    def post(self, url: str, message: HttpRequest, most_bytes: int) -> Answer:
        """Post `message` and give the reply, of at most `most_bytes`.

        Raises:
            Cancelled: `stop` was set. RemoteError: one of its kinds, with a sentence for a person.
        """
        deadline = time.monotonic() + self.timeout
        retries = self.retries
        if retries.connect and origin(url) in seen_origins(self.session):
            retries = retries.new(connect=max(retries.connect, RESTART_TRIES))
        attempts = 0
        told: RemoteError | None = None
        """The latest status, else the latest failure: it says more than that the time was up during one more try."""
        while True:
            attempts += 1
            once = partial(self._once, url, message, most_bytes, deadline, attempts)
            try:
                answer = self._abortable(once, deadline, url)
            except RemoteTimeoutError as error:
                raise told or error from error.__cause__
            except _Transient as failure:
                if told is None or told.status is None or failure.kind == "status":
                    told = failure.error
                retries, wait = _next_try(retries, failure)
                if wait is None or time.monotonic() + wait >= deadline:
                    raise told from told.__cause__
                spent = self.timeout - (deadline - time.monotonic())
                self.notify(
                    f"{failure.plain}; trying again in {max(1, round(wait))} s ({round(spent)} s so far)"
                )
                self._sleep(wait)
            else:
                return answer

    def _sleep(self, seconds: float) -> None:
        if self.stop is None:
            time.sleep(seconds)
        elif self.stop.wait(seconds):
            raise Cancelled("Stopped while waiting for the endpoint.")

    def _abortable(self, work: Callable[[], Answer], deadline: float, url: str) -> Answer:
        """Run `work` in a thread of its own, because a blocked socket can look neither at `stop` nor at the clock.

        A socket's own timeout is for each read, so an answer that drips byte by byte would never run into it.
        """
        future: Future[Answer] = Future()
        watched = AbortHandle()

        def run() -> None:
            with watched:
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
                    future.set_exception(error)

        threading.Thread(target=run, name="remote-post", daemon=True).start()
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
            if self.stop is not None and self.stop.is_set():
                watched.cut()
                raise Cancelled("Stopped while the endpoint was working.")
            if time.monotonic() > deadline:
                watched.cut()
                raise _too_late(redact_url(url), self.timeout)

    def _once(
        self, url: str, message: HttpRequest, most_bytes: int, deadline: float, attempts: int
    ) -> Answer:
        where = redact_url(url)
        started = time.monotonic()
        left = deadline - started
        if left <= 0:
            raise _too_late(where, self.timeout)
        headers = dict(message.headers)
        if self.request_id is not None:
            headers[HEADER] = self.request_id
        value = self.token.for_url(url) if self.token is not None else None
        if value:
            headers["authorization"] = f"Bearer {value}"
        try:
            with self.session.post(
                url,
                params=list(message.query),
                data=message.body,
                headers=headers,
                timeout=(min(CONNECT_SECONDS, left), left),
                allow_redirects=False,
                stream=True,
            ) as response:
                most = most_bytes if response.status_code == 200 else 65536
                seen_origins(self.session).add(origin(url))
                given = clean_id(response.headers.get(HEADER))
                body = _read(response, most, deadline, where, given)
                if response.status_code != 200:
                    # What it says is quoted to a visitor; some proxies quote the whole request.
                    said = body.replace(value.encode(), b"...") if value else body
                    raise _refusal(response, said, where, given)
                lower = {key.lower(): value for key, value in response.headers.items()}
                return Answer(lower, body, attempts, time.monotonic() - started)
        except LatentRelayError:
            raise
        except (requests.RequestException, OSError, ValueError) as error:
            raise _translated(error, where, self.timeout) from error


class _Transient(Exception):  # noqa: N818 - never leaves this module
    """A failure that another try may cure."""

    def __init__(
        self,
        error: RemoteError,
        plain: str,
        kind: Literal["connect", "read", "status"],
        *,
        retry_after: float | None = None,
    ) -> None:
        self.error = error
        self.plain = plain
        self.kind = kind
        """Which of the retries' budgets it is counted against."""
        self.retry_after = retry_after


def _next_try(retries: Retry, failure: _Transient) -> tuple[Retry, float | None]:
    """urllib3's bookkeeping for one more failure: (what is left, seconds to wait or None for no more tries)."""
    left = getattr(retries, failure.kind)
    if left <= 0:
        return retries, None
    spent: dict[str, Any] = {failure.kind: left - 1}
    following = retries.new(
        **spent, history=(*retries.history, RequestHistory("POST", None, None, None, None))
    )
    wait = failure.retry_after
    return following, max(0.25, following.get_backoff_time()) if wait is None else wait


def _read(
    response: requests.Response, most: int, deadline: float, where: str, request_id: str | None
) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_content(_CHUNK):
        size += len(chunk)
        if size > most and response.status_code == 200:
            raise RemoteReplyError(
                f"The endpoint at {where} sent more than the {most} bytes that were asked for.",
                "It is probably not a VAE endpoint.",
                url=where,
                request_id=request_id,
            )
        if time.monotonic() > deadline:
            raise requests.Timeout
        chunks.append(chunk)
        if size > most:
            break
    body = b"".join(chunks)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and len(body) < int(announced) and response.status_code == 200:
        cut_off = f"The answer of {where} was cut off: {len(body)} of {announced} bytes came."
        raise _cut_off(cut_off, where, request_id)
    return body


def _cut_off(sentence: str, where: str, request_id: str | None = None) -> _Transient:
    error = RemoteReplyError(sentence, "Try again.", url=where, request_id=request_id)
    return _Transient(error, "The answer was cut off", "read")


def _refusal(response: requests.Response, body: bytes, where: str, request_id: str | None) -> Exception:
    """An HTTP status that is not 200 as an error, transient or not. The body may be JSON, HTML or nothing."""
    status = response.status_code
    said, hint, code = _said(body)
    quoted = f" It says: {said}" if said else ""
    if 300 <= status < 400:
        target = (
            redact_url(response.headers.get("Location", ""))
            if response.headers.get("Location")
            else "elsewhere"
        )
        return RemoteRefusedError(
            f"The endpoint at {where} has moved to {target}.",
            "Give its new address.",
            url=where,
            status=status,
            request_id=request_id,
        )
    sentences = {
        401: (f"The endpoint at {where} wants a token, or does not accept this one.", "Check the token."),
        403: (f"The endpoint at {where} does not let us in.", "Check the token and its rights."),
        404: (f"There is no VAE at {where}.{quoted}", "Check the address."),
        405: (f"{where} is not a VAE endpoint.{quoted}", "Check the address."),
        413: (f"The picture is too large for the endpoint at {where}.{quoted}", "Choose a smaller size."),
        429: (f"The endpoint at {where} gets too many requests.", "Wait a little and try again."),
        503: (f"The endpoint at {where} is busy or still starting.{quoted}", "Try again in a minute."),
        507: (f"The endpoint at {where} ran out of memory.", "Choose a smaller size or another mode."),
    }
    sentence, advice = sentences.get(
        status, (f"The endpoint at {where} answered with error {status}.{quoted}", hint or "Try again later.")
    )
    error = RemoteRefusedError(sentence, advice, url=where, status=status, request_id=request_id)
    if status not in RETRIES.status_forcelist:
        return error
    wait = _retry_after(response)
    plain = {429: "The endpoint gets too many requests", 503: "The endpoint is waking up"}.get(
        status, "The endpoint does not answer yet"
    )
    return _Transient(error, "The endpoint is busy" if code == "busy" else plain, "status", retry_after=wait)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After")
    if text is None:
        return None
    try:
        return max(0.0, float(RETRIES.parse_retry_after(text)))
    except (InvalidHeader, ValueError, OverflowError):
        return None  # a header that nobody can read asks for nothing


def _said(body: bytes) -> tuple[str, str, str]:
    """(message, hint, code) of a JSON error in any server's shape; empty where it says nothing a person can use."""
    try:
        document = json.loads(body)
    except ValueError:
        return "", "", ""
    if not isinstance(document, dict):
        return "", "", ""
    error = document.get("error", document.get("detail", ""))
    if isinstance(error, list):
        error = "; ".join(str(item) for item in error)
    return str(error)[:300], str(document.get("hint", ""))[:300], str(document.get("code", ""))


def _too_late(where: str, timeout: float) -> RemoteTimeoutError:
    return RemoteTimeoutError(
        f"The endpoint at {where} did not answer within {timeout:g} s.",
        "It may be starting up; try again in a minute, or choose another mode.",
        url=where,
    )


def _translated(error: Exception, where: str, timeout: float) -> Exception:
    """requests' exceptions as ours."""
    if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
        return _too_late(where, timeout)
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE" not in str(error):
            return RemoteUnreachableError(
                f"No secure connection to {where} could be made.",
                "Perhaps its address starts with http://, or a proxy is in between.",
                url=where,
            )
        return RemoteUnreachableError(
            f"The certificate of {where} is not valid.",
            "Check the address, and this computer's clock.",
            url=where,
        )
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _cut_off(f"The answer of {where} was cut off.", where)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, NameResolutionError):
        return RemoteUnreachableError(
            f"No computer called {where.split('/')[2]} was found.",
            "Check the address, and the network connection.",
            url=where,
        )
    nobody = RemoteUnreachableError(
        f"Nothing answers at {where}.", "Check that the endpoint is running, and its address.", url=where
    )
    if not isinstance(error, requests.ConnectionError):
        return nobody
    if isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout):
        failure = _Transient(nobody, "Nothing answers there yet", "connect")
    else:
        broken = RemoteUnreachableError(
            f"The connection to {where} broke before it answered.",
            "The endpoint may have stopped or be restarting; try again in a minute.",
            url=where,
        )
        failure = _Transient(broken, "The connection broke", "connect")
    failure.error.__cause__ = error
    return failure

"""What went wrong with a request to an endpoint, as our errors: HTTP statuses, and requests' and urllib3's exceptions.

They become ours here and nowhere else.
"""

from __future__ import annotations

import json
from typing import Literal

import requests
from urllib3.exceptions import InvalidHeader, NameResolutionError, NewConnectionError
from urllib3.util.retry import Retry

from backend.errors import (
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
)
from backend.message import Message, join, literal
from backend.remote.net import redact_url

RETRIABLE = (429, 502, 503, 504)
"""HTTP statuses that another try may cure."""


class Transient(Exception):  # noqa: N818 - the client catches every one
    """A failure that another try may cure; `kind` is the retries' budget that it is counted against."""

    def __init__(
        self,
        error: RemoteError,
        reason: Message,
        kind: Literal["connect", "read", "status"],
        *,
        retry_after: float | None = None,
    ) -> None:
        self.error = error
        self.reason = reason
        self.kind = kind
        self.retry_after = retry_after


def cut_off(sentence: Message, where: str, request_id: str | None = None) -> Transient:
    error = RemoteReplyError(sentence, "Try again.", url=where, request_id=request_id)
    return Transient(error, Message("The answer was cut off"), "read")


_REFUSALS: dict[int, tuple[Message, Message]] = {
    401: (
        Message("The endpoint at {where} wants a token, or does not accept this one."),
        Message("Check the token."),
    ),
    403: (Message("The endpoint at {where} does not let us in."), Message("Check the token and its rights.")),
    404: (Message("There is no VAE at {where}."), Message("Check the address.")),
    405: (Message("{where} is not a VAE endpoint."), Message("Check the address.")),
    413: (
        Message("The picture is too large for the endpoint at {where}."),
        Message("Choose a smaller size."),
    ),
    429: (
        Message("The endpoint at {where} gets too many requests."),
        Message("Wait a little and try again."),
    ),
    503: (
        Message("The endpoint at {where} is busy or still starting."),
        Message("Try again in a minute."),
    ),
    507: (
        Message("The endpoint at {where} ran out of memory."),
        Message("Choose a smaller size or another mode."),
    ),
}
"""By HTTP status: the sentence, and what to do."""
_OTHER_REFUSAL = (
    Message("The endpoint at {where} answered with error {status}."),
    Message("Try again later."),
)
_NOT_QUOTED = (401, 403, 429, 507)
"""Statuses that say all there is to say."""

_WAITING: dict[int, Message] = {
    429: Message("The endpoint gets too many requests"),
    503: Message("The endpoint is waking up"),
}
"""By HTTP status: why there is another try."""
_NO_ANSWER = Message("The endpoint does not answer yet")


def refusal(response: requests.Response, body: bytes, where: str, request_id: str | None) -> Exception:
    """An HTTP status that is not 200 as an error, transient or not. The body may be JSON, HTML or nothing."""
    status = response.status_code
    text, hint, code = _error_in(body)
    if 300 <= status < 400:
        target = response.headers.get("Location", "")
        sentence = (
            Message("The endpoint at {where} has moved to {target}.", where=where, target=redact_url(target))
            if target
            else Message("The endpoint at {where} has moved to elsewhere.", where=where)
        )
        return RemoteRefusedError(
            sentence, "Give its new address.", url=where, status=status, request_id=request_id
        )
    template, advice = _REFUSALS.get(status, _OTHER_REFUSAL)
    sentence = Message(template.key, where=where, status=status)
    if text and status not in _NOT_QUOTED:
        sentence = join(sentence, Message("It says: {text}", text=text))
    if hint and status not in _REFUSALS:
        advice = literal(hint)
    error = RemoteRefusedError(sentence, advice, url=where, status=status, request_id=request_id)
    if status not in RETRIABLE:
        return error
    reason = Message("The endpoint is busy") if code == "busy" else _WAITING.get(status, _NO_ANSWER)
    return Transient(error, reason, "status", retry_after=_retry_after(response))


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After")
    if text is None:
        return None
    try:
        return max(0.0, float(Retry().parse_retry_after(text)))
    except (InvalidHeader, ValueError, OverflowError):
        return None  # a header that cannot be read asks for nothing


def _error_in(body: bytes) -> tuple[str, str, str]:
    """(message, hint, code) of a JSON error in any server's shape; empty where it says nothing a person can use."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", "", ""
    if not isinstance(document, dict):
        return "", "", ""
    error = document.get("error", document.get("detail")) or ""
    if isinstance(error, list):
        error = "; ".join(str(item) for item in error)
    return str(error)[:300], str(document.get("hint") or "")[:300], str(document.get("code") or "")


def timed_out(where: str, seconds: float) -> RemoteTimeoutError:
    return RemoteTimeoutError(
        "The endpoint at {where} did not answer within {seconds:g} s.",
        "It may be starting up; try again in a minute, or choose another mode.",
        url=where,
        where=where,
        seconds=seconds,
    )


def mapped(error: Exception, where: str, timeout: float) -> Exception:
    """requests' exceptions as ours."""
    if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
        return timed_out(where, timeout)
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE" not in str(error):
            return RemoteUnreachableError(
                "No secure connection to {where} could be made.",
                "Perhaps its address starts with http://, or a proxy is in between.",
                url=where,
                where=where,
            )
        return RemoteUnreachableError(
            "The certificate of {where} is not valid.",
            "Check the address, and this computer's clock.",
            url=where,
            where=where,
        )
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return cut_off(Message("The answer of {where} was cut off.", where=where), where)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, NameResolutionError):
        return RemoteUnreachableError(
            "No computer called {host} was found.",
            "Check the address, and the network connection.",
            url=where,
            host=where.split("/")[2],
        )
    nothing = RemoteUnreachableError(
        "Nothing answers at {where}.",
        "Check that the endpoint is running, and its address.",
        url=where,
        where=where,
    )
    if not isinstance(error, requests.ConnectionError):
        return nothing
    if isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout):
        failure = Transient(nothing, Message("Nothing answers there yet"), "connect")
    else:
        broken = RemoteUnreachableError(
            "The connection to {where} broke before it answered.",
            "The endpoint may have stopped or be restarting; try again in a minute.",
            url=where,
            where=where,
        )
        failure = Transient(broken, Message("The connection broke"), "connect")
    failure.error.__cause__ = error
    return failure

"""Every error Latent Relay raises on purpose.

    LatentRelayError            the message is one plain sentence; `hint` says what to do
    ├── Cancelled               the person pressed stop; not a failure
    ├── BusyError               too many jobs or requests wait already, or the server is stopping (503)
    ├── OutOfMemoryError        a stage did not fit the device
    ├── NonFiniteError          a VAE produced NaN or infinite values
    ├── DiskFullError           no room to keep a file
    ├── MismatchError           an answer that is not what the protocol says; a finding of `backend.conformance`
    ├── SkippedCheck            a check of `backend.conformance` that does not apply; not a failure
    ├── UserError               something a person can fix; the page shows it word for word
    │   ├── BadImageError       a picture that cannot be read or is too large
    │   ├── BadLatentsError     a latents file that is broken or belongs to another model
    │   │   └── UnnamedLatentsError     latents of another program that do not say which model they are of
    │   ├── BadSettingError     a parameter out of range
    │   ├── UnknownModelError   a model name that is not in the table
    │   ├── ModelUnavailableError   weights that cannot be had now (no network, gated, missing)
    │   └── UnsupportedVAEError     a VAE mode that cannot run this VAE
    ├── WireError               a request or reply that breaks the protocol (HTTP 400)
    │   ├── TooLargeError       a body or picture over the limits (413)
    │   └── UnsupportedTypeError    a body of a kind that is not served (415)
    ├── EndpointError           a sound request that this endpoint does not serve (now)
    │   ├── TokenError          no token, or a wrong one (401)
    │   ├── UnknownVAEError     no VAE of that name (404)
    │   ├── MethodError         a method that an address does not take (405)
    │   └── DeadlineError       it took longer than allowed (503)
    └── RemoteError             the remote VAE could not do its part
        ├── RemoteUnreachableError  no connection, name, or certificate
        ├── RemoteTimeoutError      no answer in time
        ├── RemoteRefusedError      an HTTP error status
        └── RemoteReplyError        an answer that is not what was asked for

Errors of other libraries are translated where they enter, and nowhere else.
"""

from __future__ import annotations

from typing import Any, ClassVar

from backend.message import Message, join


class LatentRelayError(Exception):
    """Base of all of ours. `message` is a sentence for a person, `advice` (may be empty) what to do next.

    Both are given as English with gaps, and what goes into the gaps by name: `UserError("{name} is not a picture.",
    "Choose another file.", name=name)`. A finished `Message` is taken as it is. `str(error)` and `hint` are the two
    in English. `retry_after`: seconds after which another try makes sense, None if nobody knows.
    """

    code: ClassVar[str] = "error"
    run_id: str | None = None
    """Of the run that failed, as its log line has it."""

    def __init__(
        self,
        message: str | Message,
        hint: str | Message = "",
        *,
        retry_after: int | None = None,
        **values: Any,
    ) -> None:
        self.message = message if isinstance(message, Message) else Message(message, **values)
        self.advice = hint if isinstance(hint, Message) else Message(hint, **values)
        self.retry_after = retry_after
        super().__init__(str(self.message))

    @property
    def hint(self) -> str:
        """`advice` in English."""
        return str(self.advice)

    @property
    def full_message(self) -> Message:
        """Message and advice in one line, as the page shows them."""
        return join(self.message, self.advice)

    @property
    def sentence(self) -> str:
        """`full_message` in English."""
        return str(self.full_message)


class Cancelled(LatentRelayError):  # noqa: N818 - stopping is no error
    code = "cancelled"


class BusyError(LatentRelayError):
    code = "busy"


class OutOfMemoryError(LatentRelayError):
    code = "out_of_memory"


class NonFiniteError(LatentRelayError):
    code = "non_finite"


class DiskFullError(LatentRelayError):
    code = "disk_full"


class MismatchError(LatentRelayError):
    code = "mismatch"


class SkippedCheck(LatentRelayError):  # noqa: N818 - not a failure
    code = "skipped"


class UserError(LatentRelayError):
    code = "bad_request"


class BadImageError(UserError):
    code = "bad_image"


class BadLatentsError(UserError):
    code = "bad_latents"


class UnnamedLatentsError(BadLatentsError):
    code = "unnamed_latents"


class BadSettingError(UserError):
    code = "bad_setting"


class UnknownModelError(UserError):
    code = "unknown_model"


class ModelUnavailableError(UserError):
    code = "model_unavailable"


class UnsupportedVAEError(UserError):
    code = "unsupported_vae"


class WireError(LatentRelayError):
    code = "bad_wire"


class TooLargeError(WireError):
    code = "too_large"


class UnsupportedTypeError(WireError):
    code = "unsupported_type"


class EndpointError(LatentRelayError):
    code = "endpoint_failed"


class TokenError(EndpointError):
    code = "unauthorized"


class UnknownVAEError(EndpointError):
    code = "unknown_vae"


class MethodError(EndpointError):
    """`allow` names the methods that the address takes, as HTTP's header of that name does."""

    code = "method_not_allowed"

    def __init__(
        self, message: str | Message, hint: str | Message = "", *, allow: str = "", **values: Any
    ) -> None:
        super().__init__(message, hint, **values)
        self.allow = allow


class DeadlineError(EndpointError):
    code = "deadline"


class RemoteError(LatentRelayError):
    """`url` is the endpoint without query or credentials, `status` the HTTP status if there was one.

    `request_id` is what the endpoint calls the request in its own log, None if it said nothing.
    """

    code = "remote_failed"

    def __init__(
        self,
        message: str | Message,
        hint: str | Message = "",
        *,
        url: str = "",
        status: int | None = None,
        request_id: str | None = None,
        **values: Any,
    ) -> None:
        super().__init__(message, hint, **values)
        self.url = url
        self.status = status
        self.request_id = request_id

    @property
    def full_message(self) -> Message:
        """Message and advice, and the id that the endpoint's owner can look for."""
        known = Message("(Request {id})", id=self.request_id) if self.request_id else Message("")
        return join(self.message, self.advice, known)


class RemoteUnreachableError(RemoteError):
    code = "remote_unreachable"


class RemoteTimeoutError(RemoteError):
    code = "remote_timeout"


class RemoteRefusedError(RemoteError):
    code = "remote_refused"


class RemoteReplyError(RemoteError):
    code = "remote_reply"

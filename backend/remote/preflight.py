"""Is this endpoint the right one, and is it awake? Asked with a tiny picture, before a long denoise.

A wrong endpoint mostly still answers: a VAE of another scale gives a grey or burnt picture, minutes later. So a tiny
decode is asked for twice, once with our factors and once with the server's own; they agree only if the model does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from backend import units, wire
from backend.errors import (
    Cancelled,
    LatentRelayError,
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
    WireError,
)
from backend.message import Message, join
from backend.models import LatentSpec
from backend.remote import description
from backend.remote.client import EndpointClient
from backend.remote.failures import RETRIABLE
from backend.remote.net import redact_url, seen_origins
from backend.remote.vae import NO_URL, RemoteVae
from backend.report import Direction
from backend.token import origin

Status = Literal["ready", "starting", "broken"]
"""It works; it may work later; it cannot work."""

SECONDS = 10.0
_SIDE = 4
"""Of the tiny latents; even, so that models which pack them two by two are served too."""
_TOLERANCE = 0.05
"""Mean difference of two pictures in [-1, 1] that float16 and uint8 can explain."""


@dataclass(frozen=True)
class Preflight:
    """What was found out about an endpoint, and a message about it for a person."""

    status: Status
    message: Message
    latency: float | None = None
    """Seconds of one tiny round trip."""
    max_pixels: int | None = None
    """The endpoint's own limit, where it gives one."""


def preflight(remote: RemoteVae, direction: Direction, timeout: float = SECONDS) -> Preflight:
    """Try `remote` with a tiny picture; never raises for what is wrong out there.

    Raises:
        Cancelled: the remote's stop was set. BadSettingError: a visitor's address that turns out to be private.
    """
    url = remote.url(direction)
    if url is None:
        return Preflight("broken", NO_URL[direction])
    where = redact_url(url)
    client = replace(remote.client, timeout=timeout, retries=remote.client.retries.new(connect=0, status=0))
    try:
        found = _describe(url, client)
        if found is not None and (problem := description.mismatch(remote.spec, found)):
            sentence = Message("The endpoint at {where} serves another model.", where=where)
            return Preflight("broken", join(sentence, problem))
        probe = _Probe(remote.spec, client)
        started = time.perf_counter()
        ours = probe.encode(url) if direction == "encode" else probe.decode(url)
        latency = time.perf_counter() - started
        if direction == "decode" and float((ours - probe.decode_as_served(url)).abs().mean()) > _TOLERANCE:
            sentence = Message(
                "The endpoint at {where} answers, but scales latents in another way than this model "
                "(scaling_factor {scaling_factor:g}): it serves another model's VAE.",
                where=where,
                scaling_factor=remote.spec.scaling_factor,
            )
            return Preflight("broken", sentence, latency)
    except RemoteTimeoutError:
        sentence = Message(
            "The endpoint at {where} did not answer within {seconds:g} s; it may be waking up.",
            where=where,
            seconds=timeout,
        )
        return Preflight("starting", sentence)
    except RemoteError as error:
        starting = (
            error.status in RETRIABLE
            if isinstance(error, RemoteRefusedError)
            else isinstance(error, RemoteUnreachableError) and origin(url) in seen_origins(client.session)
        )
        return Preflight("starting" if starting else "broken", error.full_message)
    max_pixels = found.max_pixels if found is not None else None
    return Preflight("ready", _ready(where, direction, latency, max_pixels), latency, max_pixels)


_READY: dict[tuple[Direction, bool], Message] = {
    ("encode", False): Message("The endpoint at {where} is ready: a tiny encode took {took}."),
    ("decode", False): Message("The endpoint at {where} is ready: a tiny decode took {took}."),
    ("encode", True): Message(
        "The endpoint at {where} is ready: a tiny encode took {took}, up to {megapixels:.1f} million pixels."
    ),
    ("decode", True): Message(
        "The endpoint at {where} is ready: a tiny decode took {took}, up to {megapixels:.1f} million pixels."
    ),
}
"""By direction, and whether the limit is known."""


def _ready(where: str, direction: Direction, latency: float, max_pixels: int | None) -> Message:
    template = _READY[direction, max_pixels is not None]
    return Message(template.key, where=where, took=units.seconds(latency), megapixels=(max_pixels or 0) / 1e6)


def _describe(url: str, client: EndpointClient) -> description.EndpointDescription | None:
    """What the endpoint says about the VAE whose direction is served at `url`; None if it does not."""
    base, slash, last = url.rstrip("/").rpartition("/")
    if not slash or last not in ("encode", "decode"):
        return None
    once = replace(client, timeout=min(client.timeout, description.SECONDS))
    try:
        found = description.fetch(base, once)
    except Cancelled:
        raise
    except LatentRelayError:
        return None  # the tiny request that follows finds out why, and says it
    return next((one for one in found if one.url == base), None)


class _Probe:
    """Tiny requests whose replies are checked like any other."""

    def __init__(self, spec: LatentSpec, client: EndpointClient) -> None:
        self.spec = spec
        self.client = client
        self.latents = torch.randn(1, spec.channels, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))

    def encode(self, url: str) -> torch.Tensor:
        side = _SIDE * self.spec.downscale
        return self._remote(url).encode(torch.zeros(1, 3, side, side))

    def decode(self, url: str) -> torch.Tensor:
        return self._remote(url).decode(self.latents)

    def decode_as_served(self, url: str) -> torch.Tensor:
        """With the factors of the server's own VAE."""
        request = wire.pack_decode_request(wire.DecodeRequest(self.latents, wire.CONFIGURED, "uint8"))
        reply = self.client.post(url, request, 2**20)
        try:
            return wire.parse_decode_reply(reply.headers, reply.body, "uint8")
        except WireError as error:
            raise RemoteReplyError(
                "The answer of {where} cannot be used. {error}",
                url=reply.url,
                where=reply.url,
                error=error.message,
            ) from error

    def _remote(self, url: str) -> RemoteVae:
        remote = RemoteVae(self.spec, url, url)
        remote.client = self.client
        return remote

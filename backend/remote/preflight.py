"""Is this endpoint the right one, and is it awake? Asked with a tiny picture, before a long denoise.

A wrong endpoint mostly still answers: a VAE of another scale gives a grey or burnt picture, minutes later. So a tiny
decode is asked for twice, once with our factors and once with the server's own; they agree only if the model does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import requests
import torch

from backend import wire
from backend.errors import (
    LatentRelayError,
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnreachableError,
    WireError,
)
from backend.models import LatentSpec
from backend.remote.client import Caller
from backend.remote.net import redact_url, seen_origins
from backend.remote.vae import Remote
from backend.token import origin

Light = Literal["green", "yellow", "red"]

SECONDS = 10.0
_SIDE = 4
"""Of the tiny latents; even, so that models which pack them two by two are served too."""
_TOLERANCE = 0.05
"""Mean difference of two pictures in [-1, 1] that float16 and uint8 can explain."""


@dataclass(frozen=True)
class Preflight:
    """What was found. `sentence` is for a person; green works, yellow may work later, red cannot work."""

    light: Light
    sentence: str
    latency: float | None = None
    """Seconds of one tiny round trip."""
    max_pixels: int | None = None
    """The endpoint's own limit, where it tells."""


def preflight(remote: Remote, direction: Literal["encode", "decode"], timeout: float = SECONDS) -> Preflight:
    """Try `remote` with a tiny picture; never raises for what is wrong out there.

    Raises:
        Cancelled: the remote's stop was set.
    """
    url = remote.encode_url if direction == "encode" else remote.decode_url
    if url is None:
        return Preflight("red", f"No endpoint is set that could {direction}.")
    where = redact_url(url)
    caller = replace(remote.caller, timeout=timeout, retries=remote.caller.retries.new(connect=0, status=0))
    try:
        told = _description(remote, url, timeout)
        if told is not None and (problem := mismatch(remote.spec, told)):
            return Preflight("red", f"The endpoint at {where} serves another model. {problem}")
        probe = _Probe(remote.spec, caller)
        started = time.perf_counter()
        ours = probe.encode(url) if direction == "encode" else probe.decode(url)
        latency = time.perf_counter() - started
        if direction == "decode" and float((ours - probe.decode_as_served(url)).abs().mean()) > _TOLERANCE:
            return Preflight(
                "red",
                f"The endpoint at {where} answers, but scales latents in another way than this model "
                f"(scaling_factor {remote.spec.scaling_factor:g}): it serves another model's VAE.",
                latency,
            )
    except RemoteTimeoutError:
        return Preflight(
            "yellow", f"The endpoint at {where} did not answer within {timeout:g} s; it may be waking up."
        )
    except RemoteRefusedError as error:
        light: Light = "yellow" if error.status in (429, 502, 503, 504) else "red"
        return Preflight(light, error.sentence)
    except RemoteUnreachableError as error:
        restarting = origin(url) in seen_origins(caller.session)
        return Preflight("yellow" if restarting else "red", error.sentence)
    except RemoteError as error:
        return Preflight("red", error.sentence)
    limit = told.get("limits", {}).get("max_pixels") if told else None
    limits = f", up to {limit / 1e6:.1f} million pixels" if isinstance(limit, int) else ""
    return Preflight(
        "green",
        f"The endpoint at {where} is ready: a tiny {direction} took {latency * 1000:.0f} ms{limits}.",
        latency,
        limit if isinstance(limit, int) else None,
    )


class _Probe:
    """Tiny requests whose replies are checked like any other."""

    def __init__(self, spec: LatentSpec, caller: Caller) -> None:
        self.spec = spec
        self.caller = caller
        self.latents = torch.randn(1, spec.channels, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))

    def encode(self, url: str) -> torch.Tensor:
        side = _SIDE * self.spec.downscale
        return self._remote(url).encode(torch.zeros(1, 3, side, side))

    def decode(self, url: str) -> torch.Tensor:
        return self._remote(url).decode(self.latents)

    def decode_as_served(self, url: str) -> torch.Tensor:
        """With the factors of the server's own VAE."""
        message = wire.pack_decode_request(wire.DecodeRequest(self.latents, wire.CONFIGURED, "uint8"))
        answer = self.caller.post(url, message, 2**20)
        try:
            return wire.parse_decode_reply(answer.headers, answer.body, "uint8")
        except WireError as error:
            where = redact_url(url)
            raise RemoteReplyError(f"The answer of {where} cannot be used. {error}", url=where) from error

    def _remote(self, url: str) -> Remote:
        remote = Remote(self.spec, url, url)
        remote.caller = self.caller
        return remote


def _description(remote: Remote, url: str, timeout: float) -> dict[str, Any] | None:
    """What a Latent Relay endpoint tells of itself at …/vae/NAME; None from servers that have no such page."""
    base, slash, last = url.rstrip("/").rpartition("/")
    if not slash or last not in ("encode", "decode"):
        return None
    token = remote.caller.token.for_url(base) if remote.caller.token else None
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with remote.caller.session.get(
            base, headers=headers, timeout=min(timeout, 5.0), allow_redirects=False, stream=True
        ) as response:
            if response.status_code != 200 or "json" not in response.headers.get("Content-Type", ""):
                return None
            document = wire.read_json(next(response.iter_content(65536), b""))
    except (requests.RequestException, OSError, LatentRelayError):
        return None  # the tiny request that follows finds out why, and says it
    return document if isinstance(document, dict) and "channels" in document else None


def mismatch(spec: LatentSpec, told: dict[str, Any]) -> str | None:
    """One sentence about the first thing that does not fit, None if all does."""
    if told.get("channels") != spec.channels:
        return f"Its latents have {told.get('channels')} channels, this model's {spec.channels}."
    if told.get("downscale") not in (None, spec.downscale):
        return f"Its VAE shrinks by {told.get('downscale')}, this model's by {spec.downscale}."
    factor = told.get("scaling_factor")
    if told.get("fixed_scale") or not isinstance(factor, int | float):
        return None
    if abs(factor - spec.scaling_factor) > 1e-3 * spec.scaling_factor:
        return f"Its scaling_factor is {factor:g}, this model's {spec.scaling_factor:g}."
    if abs((told.get("shift_factor") or 0.0) - (spec.shift_factor or 0.0)) > 1e-3:
        return f"Its shift_factor is {told.get('shift_factor')}, this model's {spec.shift_factor}."
    return None

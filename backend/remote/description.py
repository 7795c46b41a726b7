"""What an endpoint says about the VAEs it serves, at `/vae/NAME` (one) or `/vae` (all), checked before use.

A description comes from a stranger's server, so any JSON may be in it. What decides whether a VAE fits a model
(channels, downscale, scaling_factor, shift_factor) is absent or of the right type, else there is no description at
all; anything else of a wrong type counts as absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from backend import wire
from backend.errors import (
    RemoteError,
    RemoteRefusedError,
    RemoteTimeoutError,
    RemoteUnreachableError,
    WireError,
)
from backend.message import Message
from backend.models import LatentSpec
from backend.remote.client import EndpointClient
from backend.remote.net import redact_url

SECONDS = 5.0
"""How long an endpoint may take to describe itself."""

_MAX_BYTES = 262_144
_MAX_VAES = 100
_MAX_NAME = 80
_MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class EndpointDescription:
    """One VAE; None where the endpoint does not say it."""

    url: str
    """Where it is served; `/encode` and `/decode` are appended."""
    name: str
    """At most 80 characters; empty if it has none."""
    channels: int
    downscale: int | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    fixed_scale: bool = False
    """Whether the endpoint ignores the factors that a request brings."""
    max_pixels: int | None = None
    """The largest picture it takes, in pixels."""


def fetch(url: str, client: EndpointClient) -> list[EndpointDescription]:
    """The VAEs that the page at `url` describes: that one, those of a list, or none if it describes nothing.

    Raises:
        RemoteUnreachableError: nothing answers. RemoteRefusedError: a token is wanted, or this one is wrong.
        Cancelled: the client's stop was set.
    """
    where = redact_url(url)
    try:
        reply = client.get(url, _MAX_BYTES)
        if "json" not in reply.headers.get("content-type", ""):
            return []
        return parse(wire.read_json(reply.body), url)
    except (RemoteUnreachableError, RemoteTimeoutError) as error:
        raise RemoteUnreachableError(
            "Nothing answers at {where}.",
            "Check that the endpoint is running, and its address.",
            url=where,
            where=where,
        ) from error
    except RemoteRefusedError as error:
        if error.status not in (401, 403):
            return []
        raise RemoteRefusedError(
            "The endpoint at {where} wants a token, or does not accept this one.",
            "Check the token.",
            url=where,
            status=error.status,
            where=where,
        ) from error
    except (RemoteError, WireError):
        return []


def parse(document: object, url: str) -> list[EndpointDescription]:
    """The descriptions in a JSON document that came from `url`; never raises."""
    if not isinstance(document, dict):
        return []
    if "channels" in document:
        found = _parse_one(document, url)
        return [] if found is None else [found]
    listed = document.get("vaes")
    base = url if url.endswith("/vae") else f"{url}/vae"
    found_all = []
    for entry in listed[:_MAX_VAES] if isinstance(listed, list) else []:
        name = _name(entry.get("name")) if isinstance(entry, dict) else ""
        if name and (found := _parse_one(entry, f"{base}/{quote(name, safe='')}")):
            found_all.append(found)
    return found_all


def _parse_one(document: dict[str, Any], url: str) -> EndpointDescription | None:
    try:
        channels, downscale = (_integer(document.get(key)) for key in ("channels", "downscale"))
        scaling, shift = (_number(document.get(key)) for key in ("scaling_factor", "shift_factor"))
    except ValueError:
        return None
    if channels is None:
        return None
    limits = document.get("limits")
    try:
        max_pixels = _integer(limits.get("max_pixels")) if isinstance(limits, dict) else None
    except ValueError:
        max_pixels = None
    return EndpointDescription(
        url,
        _name(document.get("name")),
        channels,
        downscale,
        scaling,
        shift,
        fixed_scale=document.get("fixed_scale") is True,
        max_pixels=max_pixels,
    )


def _integer(value: object) -> int | None:
    """Raises ValueError unless absent or a positive integer."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_INTEGER:
        raise ValueError
    return value


def _number(value: object) -> float | None:
    """Raises ValueError unless absent or a finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _name(value: object) -> str:
    return value[:_MAX_NAME] if isinstance(value, str) else ""


def mismatch(spec: LatentSpec, description: EndpointDescription) -> Message | None:
    """One sentence about the first thing that does not fit the model, None if all does."""
    if description.channels != spec.channels:
        return Message(
            "Its latents have {theirs} channels, this model's {ours}.",
            theirs=description.channels,
            ours=spec.channels,
        )
    if description.downscale not in (None, spec.downscale):
        return Message(
            "Its VAE shrinks by {theirs}, this model's by {ours}.",
            theirs=description.downscale,
            ours=spec.downscale,
        )
    theirs, ours = description.scaling_factor, spec.scaling_factor
    if description.fixed_scale or theirs is None:
        return None
    if abs(theirs - ours) > 1e-3 * ours:
        return Message("Its scaling_factor is {theirs:g}, this model's {ours:g}.", theirs=theirs, ours=ours)
    if abs((description.shift_factor or 0.0) - (spec.shift_factor or 0.0)) > 1e-3:
        return Message(
            "Its shift_factor is {theirs}, this model's {ours}.",
            theirs=description.shift_factor,
            ours=spec.shift_factor,
        )
    return None

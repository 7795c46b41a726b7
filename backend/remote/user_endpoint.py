"""An endpoint that a visitor gives on the page: what it serves is asked of it, and it is tried before it is used.

It lives in memory only. Its token goes to the address it was given for and nowhere else; `repr` does not show it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import requests

from backend.errors import (
    BadSettingError,
    LatentRelayError,
    RemoteRefusedError,
    RemoteUnreachableError,
    UserError,
)
from backend.models import MODELS, ModelSpec
from backend.remote import net
from backend.token import Token

if TYPE_CHECKING:
    from backend.remote.preflight import Preflight
    from backend.remote.vae import Remote

_PATIENCE = 5.0
"""Seconds for an endpoint to say what it serves."""
_MOST_BYTES = 262_144


@dataclass(frozen=True)
class UserEndpoint:
    """A VAE at up to two addresses, and the models here whose latents it speaks."""

    name: str
    models: tuple[str, ...]
    encode: str | None
    decode: str | None
    token: Token | None = field(default=None, repr=False)
    public_only: bool = True
    """Whether it may be called at public addresses only: so wherever the visitor is not the owner."""

    @property
    def host(self) -> str:
        return urlsplit(self.encode or self.decode or "").netloc


@dataclass(frozen=True)
class Tried:
    """An endpoint and what trying it found; `endpoint` only has the directions that may work, None if neither."""

    endpoint: UserEndpoint | None
    found: Preflight


def look_up(
    url: str,
    token: str = "",
    *,
    name: str = "",
    model: str | None = None,
    prefer: str | None = None,
    public_only: bool = True,
) -> UserEndpoint:
    """The VAE served at `url`: a Latent Relay's own address, its `/vae`, or one VAE there, with or without direction.

    `model` says whose VAE is wanted where several are served, and whose it is where the server does not say;
    `prefer` only decides between several.

    Raises:
        BadSettingError: no web address, or a private one while `public_only`. UserError: nothing served there that a
        model here could use, or too much to choose from. RemoteError: no answer, or no entrance.
    """
    address = net.split_url(url)
    if not (token.isascii() and token.strip().isprintable()):
        raise BadSettingError("The token holds letters that no token has.", "Copy it once more, in one line.")
    base = f"{address.scheme}://{address.netloc}{address.path}".rstrip("/")
    if public_only:
        net.check_visitor_url(base)
    secret = Token.bound_to(token.strip(), base) if token.strip() else None
    last = base.rpartition("/")[2]
    trunk = base.rpartition("/")[0] if last in ("encode", "decode") else base
    named = name.strip()[:40] or address.netloc
    for served_at, told in _descriptions(trunk, secret, public_only):
        vaes = _served(served_at, told)
        if vaes:
            models, encode, decode = _chosen(vaes, model, prefer, address.netloc)
            return UserEndpoint(named, models, encode, decode, secret, public_only)
    if model is None:
        raise UserError(
            f"The endpoint at {base} does not say which VAE it serves.", "Choose the model it is for."
        )
    if last in ("encode", "decode"):
        return UserEndpoint(named, (model,), f"{trunk}/encode", f"{trunk}/decode", secret, public_only)
    return UserEndpoint(named, (model,), base, base, secret, public_only)


def remote_of(
    endpoint: UserEndpoint,
    spec: ModelSpec,
    *,
    timeout: float,
    stop: threading.Event | None = None,
    **more: Any,
) -> Remote:
    """The client for that endpoint.

    Raises:
        UserError: it serves no VAE for this model.
    """
    from backend.remote.vae import Remote

    if spec.name not in endpoint.models:
        raise UserError(
            f"Your endpoint “{endpoint.name}” serves no VAE for {spec.title}.",
            "Choose another place, or another model.",
        )
    return Remote(
        spec.latents,
        endpoint.encode,
        endpoint.decode,
        session=net.shared_session(endpoint.public_only),
        timeout=timeout,
        token=endpoint.token,
        stop=stop,
        **more,
    )


def try_out(endpoint: UserEndpoint, spec: ModelSpec) -> Tried:
    """Send a tiny picture both ways. A direction that cannot work is dropped; the worse light speaks for both."""
    from backend.remote.preflight import preflight

    remote = remote_of(endpoint, spec, timeout=_PATIENCE)
    there, back = preflight(remote, "encode"), preflight(remote, "decode")
    kept = replace(
        endpoint,
        encode=None if there.light == "red" else endpoint.encode,
        decode=None if back.light == "red" else endpoint.decode,
    )
    if kept.encode is None and kept.decode is None:
        return Tried(None, back)
    working = [found for found in (back, there) if found.light != "red"]
    return Tried(kept, max(working, key=lambda found: found.light == "yellow"))


@dataclass(frozen=True)
class _Vae:
    name: str
    base: str
    models: tuple[str, ...]


def _descriptions(trunk: str, token: Token | None, public_only: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(address, JSON object) of each place near `trunk` that describes itself.

    Raises:
        RemoteUnreachableError: nothing answers. RemoteRefusedError: a token is wanted, or this one is wrong.
    """
    for place in (trunk, f"{trunk}/vae"):
        told = _get_json(place, token, net.shared_session(public_only))
        if told is not None:
            yield place, told


def _get_json(url: str, token: Token | None, session: requests.Session) -> dict[str, Any] | None:
    from backend import wire

    value = token.for_url(url) if token else None
    headers = {"authorization": f"Bearer {value}"} if value else {}
    where = net.redact_url(url)
    try:
        with session.get(
            url, headers=headers, timeout=_PATIENCE, allow_redirects=False, stream=True
        ) as response:
            status, kind = response.status_code, response.headers.get("Content-Type", "")
            body = b""
            for chunk in response.iter_content(65536):
                body += chunk
                if len(body) > _MOST_BYTES:
                    return None
    except (requests.RequestException, OSError) as error:
        raise RemoteUnreachableError(
            f"Nothing answers at {where}.", "Check that the endpoint is running, and its address.", url=where
        ) from error
    if status in (401, 403):
        raise RemoteRefusedError(
            f"The endpoint at {where} wants a token, or does not accept this one.",
            "Check the token.",
            url=where,
            status=status,
        )
    if status != 200 or "json" not in kind:
        return None
    try:
        told = wire.read_json(body)
    except LatentRelayError:
        return None
    return told if isinstance(told, dict) else None


def _served(place: str, told: dict[str, Any]) -> list[_Vae]:
    """The VAEs in a description: one's own, or a list of them; with the models here that each suits, maybe none."""
    if "channels" in told:
        return [_Vae(str(told.get("name", ""))[:80], place, _suited(told))]
    listed = told.get("vaes")
    if not isinstance(listed, list):
        return []
    trunk = place if place.endswith("/vae") else f"{place}/vae"
    return [
        _Vae(name[:80], f"{trunk}/{quote(name[:80], safe='')}", _suited(one))
        for one in listed[:100]
        if isinstance(one, dict) and isinstance(name := one.get("name"), str) and name
    ]


def _suited(told: dict[str, Any]) -> tuple[str, ...]:
    from backend.remote.preflight import mismatch

    if not isinstance(told.get("shift_factor") or 0.0, int | float):
        return ()
    return tuple(
        spec.name for spec in MODELS.values() if spec.available and mismatch(spec.latents, told) is None
    )


def _chosen(
    vaes: list[_Vae], model: str | None, prefer: str | None, host: str
) -> tuple[tuple[str, ...], str, str]:
    """(models, address to encode, to decode) of the VAE that is meant."""
    fitting = [vae for vae in vaes if vae.models and (model is None or model in vae.models)]
    if not fitting:
        names = ", ".join(vae.name for vae in vaes[:8])
        raise UserError(
            f"The endpoint at {host} serves {names}, but no VAE that fits.",
            "Check the address and the model.",
        )
    if model is None and len(fitting) > 1:
        fitting, model = [vae for vae in fitting if prefer in vae.models], prefer
    same_name = [vae for vae in fitting if vae.name == model]
    if not fitting:
        names = ", ".join(vae.name for vae in vaes[:8] if vae.models)
        raise UserError(
            f"The endpoint at {host} serves several VAEs: {names}.", "Choose the model it is for."
        )
    vae = (same_name or fitting)[0]
    return vae.models, f"{vae.base}/encode", f"{vae.base}/decode"

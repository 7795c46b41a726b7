"""Which endpoint serves a stage, with which token, and the client for it.

An endpoint that the visitor added comes first, then the one that the owner configured, then the public default of the
model's family, then the VAE routes of this very app. A public default is used only where a person chose "remote", and
never on a public page.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backend.errors import ModelUnavailableError, UserError
from backend.job import UserEndpoint, VaeOptions
from backend.message import Message
from backend.models import ModelSpec
from backend.remote import net
from backend.report import Direction
from backend.settings import Settings
from backend.token import Token

if TYPE_CHECKING:
    from backend.remote.vae import RemoteVae


@dataclass(frozen=True)
class Endpoint:
    """Where one direction of a model's VAE is served."""

    url: str
    token: Token | None
    is_self: bool
    """Whether it is this very app, so that a stage there needs this machine's device after all."""
    is_default: bool = False
    """Whether it is the family's public default, which neither the owner nor the visitor named."""


def resolve(
    spec: ModelSpec, direction: Direction, options: VaeOptions, settings: Settings, self_url: str | None
) -> Endpoint | None:
    """The endpoint for that stage, None if none is known.

    Args:
        self_url: this app's base URL once it listens, else None; None also leaves this app out of the choice.
    """
    own_routes = None if self_url is None else f"{self_url.rstrip('/')}/"
    user, default = options.endpoint, None
    if user is not None:
        url = user.encode if direction == "encode" else user.decode
    else:
        url = settings.configured_endpoints(spec).of(direction)
        if url is None and options.mode == "remote":
            url = default = settings.default_endpoints(spec).of(direction)
        if url is None and own_routes is not None:
            url = f"{own_routes}vae/{spec.name}/{direction}"
    if url is None:
        return None
    if default is not None:
        return Endpoint(url, None, is_self=False, is_default=True)
    is_self = own_routes is not None and url.startswith(own_routes)
    if user is not None:
        return Endpoint(url, user.token, is_self)
    if own_routes is not None and settings.serve_token is not None and url.startswith(f"{own_routes}vae/"):
        return Endpoint(url, Token.bound_to(settings.serve_token, own_routes), is_self)
    return Endpoint(url, settings.endpoint_token(spec), is_self)


def require(
    spec: ModelSpec, direction: Direction, options: VaeOptions, settings: Settings, self_url: str | None
) -> Endpoint:
    """`resolve`, for a stage that is to run there.

    Raises:
        UserError: the visitor's endpoint does not serve that direction or that model.
        ModelUnavailableError: no endpoint is known.
    """
    endpoint, user = resolve(spec, direction, options, settings, self_url), options.endpoint
    if user is not None:
        if endpoint is None:
            sentences: dict[Direction, Message] = {
                "encode": Message("Your endpoint “{name}” does not encode.", name=user.name),
                "decode": Message("Your endpoint “{name}” does not decode.", name=user.name),
            }
            raise UserError(sentences[direction], "Choose another place for this stage.")
        check_model(user, spec)
    if endpoint is None:
        sentences = {
            "encode": Message(
                "No endpoint is known that could encode for {title}.", title=spec.title_message
            ),
            "decode": Message(
                "No endpoint is known that could decode for {title}.", title=spec.title_message
            ),
        }
        raise ModelUnavailableError(
            sentences[direction],
            "Start the app with --endpoint {name}=URL, or choose another mode.",
            name=spec.name,
        )
    return endpoint


def own_endpoint(spec: ModelSpec, settings: Settings, self_url: str) -> UserEndpoint:
    """This app's own endpoint for that model, for who wants no other whatever is configured or a family's default."""
    own_routes = f"{self_url.rstrip('/')}/"
    token = None if settings.serve_token is None else Token.bound_to(settings.serve_token, own_routes)
    address = f"{own_routes}vae/{spec.name}/"
    host = display_host(self_url)
    return UserEndpoint(host, (spec.name,), f"{address}encode", f"{address}decode", token, public_only=False)


def check_model(endpoint: UserEndpoint, spec: ModelSpec) -> None:
    """Let a model pass that the visitor's endpoint serves.

    Raises:
        UserError: it does not.
    """
    if spec.name not in endpoint.models:
        raise UserError(
            "Your endpoint “{name}” serves no VAE for {title}.",
            "Choose another place, or another model.",
            name=endpoint.name,
            title=spec.title_message,
        )


def client(
    endpoint: Endpoint,
    spec: ModelSpec,
    options: VaeOptions,
    settings: Settings,
    stop: threading.Event | None = None,
    notify: Callable[[Message], None] = lambda _: None,
    request_id: str | None = None,
) -> RemoteVae:
    """The VAE at `endpoint`, for the direction that `endpoint` was resolved for.

    A visitor's address is called over a session that refuses private addresses, unless the visitor is the owner.
    """
    from backend.remote.vae import RemoteVae  # imports torch

    user = options.endpoint
    return RemoteVae(
        spec.latents,
        endpoint.url,
        endpoint.url,
        session=net.shared_session(user.public_only if user is not None else False),
        timeout=settings.remote_timeout,
        token=endpoint.token,
        stop=stop,
        notify=notify,
        transfer=options.transfer,
        request_id=request_id,
    )


def display_host(url: str) -> str:
    """Host and port of a URL, without credentials, as the page shows where a stage runs."""
    return urlsplit(url).netloc.rpartition("@")[2]

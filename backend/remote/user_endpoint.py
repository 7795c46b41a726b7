"""An endpoint that a visitor adds on the page: it is asked what it serves, and tried before it is used.

Its token goes to the address it was given for and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from backend.errors import BadSettingError, UserError
from backend.job import UserEndpoint
from backend.models import ModelSpec
from backend.remote import description, net
from backend.remote.client import EndpointClient
from backend.remote.description import EndpointDescription
from backend.remote.endpoints import check_model
from backend.token import Token

if TYPE_CHECKING:
    from backend.remote.preflight import Preflight

_MAX_NAME = 40
_LISTED = 8
"""How many VAEs a sentence names."""


@dataclass(frozen=True)
class ProbeResult:
    """`endpoint` has only the directions that may work, None if neither does; `preflight` is what was found."""

    endpoint: UserEndpoint | None
    preflight: Preflight


def discover(
    url: str,
    token: str = "",
    *,
    models: Mapping[str, ModelSpec],
    name: str = "",
    model: str | None = None,
    prefer: str | None = None,
    public_only: bool = True,
) -> UserEndpoint:
    """The VAE served at `url`: a Latent Relay's address, its `/vae`, or one VAE there, with or without direction.

    Args:
        models: those that a VAE may fit, by name.
        model: whose VAE is meant where several are served, and where the server does not describe itself.
        prefer: decides between several VAEs, if `model` is None.
        public_only: refuse private addresses.

    Raises:
        BadSettingError: no web address, or a private one while `public_only`. UserError: nothing served there that a
        model here could use, or too much to choose from. RemoteError: no answer, or the token is refused.
    """
    address = net.split_url(url)
    if not (token.isascii() and token.strip().isprintable()):
        raise BadSettingError("The token holds letters that no token has.", "Copy it once more, in one line.")
    base = f"{address.scheme}://{address.netloc}{address.path}".rstrip("/")
    if public_only:
        net.check_visitor_url(base)
    secret = Token.bound_to(token.strip(), base) if token.strip() else None
    parent, _, last = base.rpartition("/")
    names_direction = last in ("encode", "decode")
    trunk = parent if names_direction else base
    shown_name = name.strip()[:_MAX_NAME] or address.netloc
    client = EndpointClient(net.shared_session(public_only), description.SECONDS, secret)
    for place in (trunk, f"{trunk}/vae"):
        if vaes := description.fetch(place, client):
            fitting = {vae: _fitting_models(vae, models) for vae in vaes}
            vae = _choose(fitting, model, prefer, address.netloc)
            return UserEndpoint(
                shown_name, fitting[vae], f"{vae.url}/encode", f"{vae.url}/decode", secret, public_only
            )
    if model is None:
        raise UserError(
            "The endpoint at {base} does not say which VAE it serves.",
            "Choose the model it is for.",
            base=base,
        )
    encode, decode = (f"{trunk}/encode", f"{trunk}/decode") if names_direction else (base, base)
    return UserEndpoint(shown_name, (model,), encode, decode, secret, public_only)


def probe(endpoint: UserEndpoint, spec: ModelSpec) -> ProbeResult:
    """Send a tiny picture both ways. A direction that cannot work is dropped; the worse status speaks for both.

    Raises:
        UserError: the endpoint serves no VAE for this model.
    """
    from backend.remote.preflight import preflight  # imports torch
    from backend.remote.vae import RemoteVae  # imports torch

    check_model(endpoint, spec)
    remote = RemoteVae(
        spec.latents,
        endpoint.encode,
        endpoint.decode,
        session=net.shared_session(endpoint.public_only),
        timeout=description.SECONDS,
        token=endpoint.token,
    )
    encoded, decoded = preflight(remote, "encode"), preflight(remote, "decode")
    kept = replace(
        endpoint,
        encode=None if encoded.status == "broken" else endpoint.encode,
        decode=None if decoded.status == "broken" else endpoint.decode,
    )
    if kept.encode is None and kept.decode is None:
        return ProbeResult(None, decoded)
    working = [found for found in (decoded, encoded) if found.status != "broken"]
    return ProbeResult(kept, max(working, key=lambda found: found.status == "starting"))


def _fitting_models(vae: EndpointDescription, models: Mapping[str, ModelSpec]) -> tuple[str, ...]:
    return tuple(
        spec.name
        for spec in models.values()
        if spec.available and description.mismatch(spec.latents, vae) is None
    )


def _choose(
    fitting: Mapping[EndpointDescription, tuple[str, ...]], model: str | None, prefer: str | None, host: str
) -> EndpointDescription:
    """The VAE that is meant, of those served and the models that each fits.

    Raises:
        UserError: none fits, or more than one may be meant.
    """
    candidates = [vae for vae, names in fitting.items() if names and (model is None or model in names)]
    if not candidates:
        raise UserError(
            "The endpoint at {host} serves {names}, but no VAE that fits.",
            "Check the address and the model.",
            host=host,
            names=_listed(fitting),
        )
    if model is None and len(candidates) > 1:
        candidates, model = [vae for vae in candidates if prefer in fitting[vae]], prefer
    if not candidates:
        raise UserError(
            "The endpoint at {host} serves several VAEs: {names}.",
            "Choose the model it is for.",
            host=host,
            names=_listed(vae for vae, names in fitting.items() if names),
        )
    return next((vae for vae in candidates if vae.name == model), candidates[0])


def _listed(vaes: Iterable[EndpointDescription]) -> str:
    return ", ".join(vae.name for vae in islice(vaes, _LISTED))

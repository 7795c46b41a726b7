"""The app's settings: frozen, read once at the edge from the command line and the environment.

A flag wins over its environment variable, which wins over the default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import BadSettingError
from backend.models import MODELS, ModelSpec, find_model
from backend.models.local import parse_model_path
from backend.token import Token

PREFIX = "LATENT_RELAY_"
LOW_MEMORY = ("none", "model", "group")
_YES = ("1", "true", "True", "yes")


@dataclass(frozen=True)
class EndpointPair:
    """Where a model's VAE is served: one URL to encode, one to decode; None where there is none."""

    encode: str | None = None
    decode: str | None = None

    def of(self, direction: str) -> str | None:
        """The URL to "encode" or to "decode" at."""
        return self.encode if direction == "encode" else self.decode


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int | None = None
    """None lets the page take the first free port from 7860 on."""
    model: str = "auto"
    device: str = "auto"
    share: bool = False
    endpoints: Mapping[str, EndpointPair] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """A bearer token a model, for the owner's endpoints of that model only."""
    serve_token: str | None = field(default=None, repr=False)
    """What others must send to use this app's own VAE routes; None lets everybody in who reaches the page."""
    visitor_endpoints: bool | None = None
    """Whether a visitor may add an endpoint of their own on the page; None allows it unless the page is public."""
    remote_timeout: float = 120.0
    """Seconds a remote stage may take altogether."""
    low_memory: str = "none"
    """How to fit a model that is too large for the card: none, "model" (whole parts move) or "group" (layers do)."""
    local_models: tuple[ModelSpec, ...] = ()
    """The owner's own, by path; a visitor never names a path."""
    queue: int = 64
    """Jobs that may wait and run at once; whoever comes then is told that it is busy."""
    folder: Path | None = None
    """Where the page keeps pictures, latents and uploads; None is `runs` next to app.py."""
    keep_days: float = 14.0
    """Days after which those are deleted."""
    keep_gb: float = 5.0
    """Gigabytes that those may take together; over it the oldest go first."""
    cache_folder: Path | None = None
    """Where the app keeps what it learns about this machine; None keeps nothing beyond this run."""
    on_space: bool = False

    @cached_property
    def models(self) -> Mapping[str, ModelSpec]:
        """Every model of this app by name: the built-in table and the owner's own, which win."""
        return {**MODELS, **{spec.name: spec for spec in self.local_models}}

    def find_model(self, name: str) -> ModelSpec:
        """The model of that name.

        Raises:
            UnknownModelError: there is none, or it cannot run yet.
        """
        return find_model(name, self.models)

    @property
    def is_public(self) -> bool:
        """Whether strangers may reach the page; then only the owner's own endpoints are called."""
        return self.share or self.on_space

    @property
    def takes_visitor_endpoints(self) -> bool:
        return not self.is_public if self.visitor_endpoints is None else self.visitor_endpoints

    @property
    def only_owner_visits(self) -> bool:
        """Whether nobody but the owner reaches the page; then the visitor may name private addresses too."""
        return not self.is_public and self.host in ("127.0.0.1", "localhost", "::1")

    def endpoint_pair(self, spec: ModelSpec) -> EndpointPair:
        """The owner's endpoints for this model, else the public defaults of its family (which may be gone)."""
        own = self.endpoints.get(spec.name, EndpointPair())
        return EndpointPair(own.encode or spec.encode_endpoint, own.decode or spec.decode_endpoint)

    def endpoint_token(self, spec: ModelSpec) -> Token | None:
        """The model's token, bound to the owner's own endpoints: a public default never sees it."""
        own = self.endpoints.get(spec.name, EndpointPair())
        value = self.tokens.get(spec.name)
        return Token.bound_to(value, own.encode, own.decode) if value else None


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where this app keeps what it learns: by the XDG rule, `~/.cache/latent-relay` if nothing else is said."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent-relay"


def parse_endpoint(text: str, known: Collection[str] = MODELS) -> tuple[str, EndpointPair]:
    """`MODEL=URL` as (model, pair); `MODEL:encode=URL` or `MODEL:decode=URL` names one direction only.

    A bare URL is the base of another Latent Relay: `/encode` and `/decode` are appended.

    Raises:
        BadSettingError: not of that form, an unknown model, or not an http(s) URL.
    """
    name, separator, url = text.strip().partition("=")
    name, _, direction = name.partition(":")
    if not separator or direction not in ("", "encode", "decode"):
        raise BadSettingError(
            f"An endpoint is given as MODEL=URL, not as “{text}”.",
            "For example: sd-v1=http://192.0.2.7:7861/vae/sd-v1",
        )
    if name not in known:
        raise BadSettingError(
            f"There is no model called “{name}”.", f"Known models: {', '.join(sorted(known))}."
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettingError(f"“{url}” is not a web address.", "It must start with http:// or https://.")
    if direction == "encode":
        return name, EndpointPair(encode=url)
    if direction == "decode":
        return name, EndpointPair(decode=url)
    base = url.rstrip("/")
    return name, EndpointPair(f"{base}/encode", f"{base}/decode")


def merge_endpoints(texts: Sequence[str], known: Collection[str] = MODELS) -> dict[str, EndpointPair]:
    """Several `parse_endpoint` texts as one table; later ones win direction by direction."""
    table: dict[str, EndpointPair] = {}
    for text in texts:
        name, pair = parse_endpoint(text, known)
        before = table.get(name, EndpointPair())
        table[name] = EndpointPair(pair.encode or before.encode, pair.decode or before.decode)
    return table


def parse_tokens(text: str, known: Collection[str] = MODELS) -> dict[str, str]:
    """`MODEL=TOKEN` pairs, separated by spaces, as a table. Errors never quote the text: it holds secrets.

    Raises:
        BadSettingError: not of that form, or an unknown model.
    """
    tokens = {}
    for pair in text.split():
        name, separator, value = pair.partition("=")
        if not separator or not value or name not in known:
            raise BadSettingError(
                f"The tokens in {PREFIX}TOKENS are given as MODEL=TOKEN, separated by spaces.",
                f"Known models: {', '.join(sorted(known))}.",
            )
        tokens[name] = value
    return tokens


def read_settings(
    arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from the command line (`sys.argv` if None) and the environment (`os.environ` if None).

    Raises:
        SystemExit: `--help`, or a flag argparse cannot read. BadSettingError: a value that makes no sense.
    """
    env = os.environ if environ is None else environ
    options = _parser(env).parse_args(arguments)
    own = tuple(
        parse_model_path(text) for text in options.model_path or env.get(PREFIX + "MODEL_PATHS", "").split()
    )
    known = {*MODELS, *(spec.name for spec in own)}
    if options.model not in ("auto", *known):
        raise BadSettingError(
            f"There is no model called “{options.model}”.", f"Known models: auto, {', '.join(sorted(known))}."
        )
    if options.low_memory not in LOW_MEMORY:
        raise BadSettingError(f"--low-memory takes {', '.join(LOW_MEMORY)}, not “{options.low_memory}”.")
    if options.remote_timeout <= 0:
        raise BadSettingError("The remote timeout must be more than 0 seconds.")
    if options.queue < 1:
        raise BadSettingError("The queue must have room for at least 1 job.")
    if not (options.keep_days > 0 and options.keep_gb > 0):  # also refuses NaN
        raise BadSettingError("Days and gigabytes to keep must be more than 0.")
    return Settings(
        host=options.host,
        port=options.port,
        model=options.model,
        device=options.device,
        share=options.share,
        endpoints=merge_endpoints(options.endpoint or env.get(PREFIX + "ENDPOINTS", "").split(), known),
        # From the environment only: flags are shown to every user of the machine by `ps`.
        tokens=parse_tokens(env.get(PREFIX + "TOKENS", ""), known),
        serve_token=env.get(PREFIX + "SERVE_TOKEN") or None,
        visitor_endpoints=options.visitor_endpoints,
        remote_timeout=options.remote_timeout,
        low_memory=options.low_memory,
        local_models=own,
        queue=options.queue,
        folder=Path(options.folder) if options.folder else None,
        keep_days=options.keep_days,
        keep_gb=options.keep_gb,
        cache_folder=cache_folder(env),
        on_space="SPACE_ID" in env,
    )


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """Flags of `app.py`; every default comes from the environment so that `--help` shows what will be used."""

    def default(name: str, fallback: str | None) -> str | None:
        return env.get(PREFIX + name, fallback)

    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Latent Relay: Stable Diffusion image-to-image with the VAE running anywhere.",
        epilog="Each flag can also be set by the environment variable named in brackets; the flag wins.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--host",
        default=default("HOST", env.get("GRADIO_SERVER_NAME", "127.0.0.1")),
        help="Address to listen on; 0.0.0.0 lets other machines in. [LATENT_RELAY_HOST] (now: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=default("PORT", env.get("GRADIO_SERVER_PORT")),
        help="Port to listen on; without it the first free one from 7860 on. [LATENT_RELAY_PORT]",
    )
    parser.add_argument(
        "--model",
        default=default("MODEL", "auto"),
        help="Model chosen when the page opens: auto, "
        + ", ".join(MODELS)
        + ". auto takes SD v1.5 where it can run well, else the built-in one. [LATENT_RELAY_MODEL]",
    )
    parser.add_argument(
        "--device",
        default=default("DEVICE", "auto"),
        help="Where to compute: auto, cpu, cuda, cuda:1, mps. [LATENT_RELAY_DEVICE] (now: %(default)s)",
    )
    parser.add_argument(
        "--model-path",
        action="append",
        metavar="NAME=PATH",
        help="A model of your own: a folder in diffusers' format or a .safetensors checkpoint; may be repeated. "
        "[LATENT_RELAY_MODEL_PATHS, separated by spaces]",
    )
    parser.add_argument(
        "--low-memory",
        default=default("LOW_MEMORY", "none"),
        metavar="HOW",
        help="For a graphics card that is too small: model keeps one network on it at a time, group one layer at a "
        "time, which is slower. [LATENT_RELAY_LOW_MEMORY] (now: %(default)s)",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        default=default("SHARE", "") in _YES,
        help="Also open a public link through Gradio's tunnel; only the owner's endpoints are called then. "
        "[LATENT_RELAY_SHARE=1]",
    )
    parser.add_argument(
        "--endpoint",
        action="append",
        metavar="MODEL=URL",
        help="A remote VAE for a model, e.g. sd-v1=http://gpu-box:7861/vae/sd-v1; MODEL:encode=URL or "
        "MODEL:decode=URL set one direction only; may be repeated. [LATENT_RELAY_ENDPOINTS, separated by spaces]",
    )
    asked = default("VISITOR_ENDPOINTS", "")
    parser.add_argument(
        "--visitor-endpoints",
        action=argparse.BooleanOptionalAction,
        default=asked in _YES if asked else None,
        help="Whether visitors may add endpoints of their own on the page: on, unless the page is public. Where others "
        "than you reach it, they may name public addresses only. [LATENT_RELAY_VISITOR_ENDPOINTS=1 or 0]",
    )
    parser.add_argument(
        "--remote-timeout",
        type=float,
        default=default("REMOTE_TIMEOUT", "120"),
        metavar="SECONDS",
        help="Longest wait for one remote stage. [LATENT_RELAY_REMOTE_TIMEOUT] (now: %(default)s)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=default("QUEUE", "64"),
        metavar="JOBS",
        help="Jobs that may wait and run at once; more are told that it is busy. [LATENT_RELAY_QUEUE] "
        "(now: %(default)s)",
    )
    parser.add_argument(
        "--folder",
        default=default("FOLDER", None),
        help="Where the page keeps pictures, latents and uploads; without it the folder runs next to app.py. "
        "[LATENT_RELAY_FOLDER]",
    )
    parser.add_argument(
        "--keep-days",
        type=float,
        default=default("KEEP_DAYS", "14"),
        metavar="DAYS",
        help="Days after which those are deleted. [LATENT_RELAY_KEEP_DAYS] (now: %(default)s)",
    )
    parser.add_argument(
        "--keep-gb",
        type=float,
        default=default("KEEP_GB", "5"),
        metavar="GB",
        help="Gigabytes that those may take together; the oldest go first. [LATENT_RELAY_KEEP_GB] (now: %(default)s)",
    )
    return parser

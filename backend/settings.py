"""The app's settings: frozen, read once at the edge from the command line and the environment.

A flag wins over its environment variable, which wins over the default. `SETTINGS` is the one list of them: the
command line, its help and the README's table (`table`) are made from it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.errors import BadSettingError
from backend.models import MODELS, ModelSpec, find_model
from backend.models.local import parse_model_path
from backend.pairs import split_pair
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
    """What others must send to use this app's VAE routes; None lets everybody in who reaches the page."""
    visitor_endpoints: bool | None = None
    """Whether a visitor may add endpoints on the page; None allows it unless the page is public."""
    remote_timeout: float = 120.0
    """Seconds a remote stage may take altogether."""
    low_memory: str = "none"
    """How to fit a model that is too large for the GPU: none, "model" (whole parts move) or "group" (layers do)."""
    local_models: tuple[ModelSpec, ...] = ()
    """The owner's models, by path; a visitor never names a path."""
    queue: int = 64
    """Jobs that may wait and run at once; a further one gets `BusyError`."""
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
        """Every model this app offers, by name: the built-in table, and the owner's, which win."""
        return {**MODELS, **{spec.name: spec for spec in self.local_models}}

    def find_model(self, name: str) -> ModelSpec:
        """The model of that name.

        Raises:
            UnknownModelError: no such name, or a model that is announced but cannot run yet.
        """
        return find_model(name, self.models)

    @property
    def is_public(self) -> bool:
        """Whether strangers may reach the page; then only the owner's endpoints are called."""
        return self.share or self.on_space

    @property
    def takes_visitor_endpoints(self) -> bool:
        return not self.is_public if self.visitor_endpoints is None else self.visitor_endpoints

    @property
    def only_owner_visits(self) -> bool:
        """Whether nobody but the owner reaches the page; then the visitor may name private addresses too."""
        return not self.is_public and self.host in ("127.0.0.1", "localhost", "::1")

    def configured_endpoints(self, spec: ModelSpec) -> EndpointPair:
        """What the owner configured for this model; the only endpoints that "auto" may send a picture to."""
        return self.endpoints.get(spec.name, EndpointPair())

    def default_endpoints(self, spec: ModelSpec) -> EndpointPair:
        """The public endpoints of the model's family (which may be gone), for a stage that a person sends away.

        None on a public page: its visitors' pictures go nowhere but where the owner says.
        """
        return EndpointPair() if self.is_public else EndpointPair(spec.encode_endpoint, spec.decode_endpoint)

    def endpoint_token(self, spec: ModelSpec) -> Token | None:
        """The model's token, bound to the owner's endpoints: a public default never sees it."""
        configured = self.configured_endpoints(spec)
        value = self.tokens.get(spec.name)
        return Token.bound_to(value, configured.encode, configured.decode) if value else None


@dataclass(frozen=True)
class Setting:
    """One row of `SETTINGS`: a field of `Settings`, and how the owner gives it."""

    field: str
    flag: str | None
    """None: from the environment only, because every user of the machine sees flags (`ps`)."""
    variable: str
    """Without `PREFIX`."""
    help: str
    default: str | None = None
    """As text, as the variable would hold it. A bool without one is None until somebody says yes or no."""
    type: Callable[[str], Any] = str
    metavar: str | None = None
    many: bool = False
    """May be given several times; the variable's values are separated by spaces."""
    shows_value: bool = False
    """Whether `--help` shows the value that is used now."""
    gradio: str | None = None
    """Gradio's variable of the same meaning, which counts where ours is not set."""

    def from_environment(self, env: Mapping[str, str]) -> str | None:
        """What the environment says, else the default, unparsed."""
        default = env.get(self.gradio, self.default) if self.gradio else self.default
        return env.get(PREFIX + self.variable, default)

    @property
    def values(self) -> str:
        """What the variable's values look like where that needs a word, to be put behind its name."""
        if self.type is bool:
            return "=1 or 0" if self.default is None else "=1"
        return ", separated by spaces" if self.many else ""


# fmt: off
SETTINGS = (
    Setting("host", "--host", "HOST", "Address to listen on; 0.0.0.0 lets other machines in.",
            default="127.0.0.1", shows_value=True, gradio="GRADIO_SERVER_NAME"),
    Setting("port", "--port", "PORT", "Port to listen on; without it the first free one from 7860 on.",
            type=int, gradio="GRADIO_SERVER_PORT"),
    Setting("model", "--model", "MODEL",
            f"Model chosen when the page opens: auto, {', '.join(MODELS)}. "
            "One that is not here yet is fetched in the background. "
            "auto takes SD v1.5 where it is here and can run well, else the built-in one.",
            default="auto"),
    Setting("device", "--device", "DEVICE", "Where to compute: auto, cpu, cuda, cuda:1, mps.",
            default="auto", shows_value=True),
    Setting("local_models", "--model-path", "MODEL_PATHS",
            "A model of your own: a folder in diffusers' format or a .safetensors checkpoint; may be repeated.",
            metavar="NAME=PATH", many=True),
    Setting("low_memory", "--low-memory", "LOW_MEMORY",
            "For a graphics card that is too small: model keeps one network on it at a time, "
            "group one layer at a time, which is slower.",
            default="none", metavar="HOW", shows_value=True),
    Setting("share", "--share", "SHARE",
            "Also open a public link through Gradio's tunnel; only the owner's endpoints are called then.",
            type=bool, default=""),
    Setting("endpoints", "--endpoint", "ENDPOINTS",
            "A remote VAE for a model, e.g. sd-v1=http://gpu-box:7861/vae/sd-v1; "
            "MODEL:encode=URL or MODEL:decode=URL set one direction only; may be repeated.",
            metavar="MODEL=URL", many=True),
    Setting("tokens", None, "TOKENS",
            "MODEL=TOKEN, separated by spaces: what the endpoints you call for a model want to see."),
    Setting("serve_token", None, "SERVE_TOKEN",
            "What others must send to use this app's VAE endpoint; without it, anyone who reaches it may."),
    Setting("visitor_endpoints", "--visitor-endpoints", "VISITOR_ENDPOINTS",
            "Whether visitors may add endpoints of their own on the page: on, unless the page is public. "
            "Where others than you reach it, they may name public addresses only.",
            type=bool),
    Setting("remote_timeout", "--remote-timeout", "REMOTE_TIMEOUT", "Longest wait for one remote stage.",
            type=float, default="120", metavar="SECONDS", shows_value=True),
    Setting("queue", "--queue", "QUEUE", "Jobs that may wait and run at once; more are told that it is busy.",
            type=int, default="64", metavar="JOBS", shows_value=True),
    Setting("folder", "--folder", "FOLDER",
            "Where the page keeps pictures, latents and uploads; without it the folder runs next to app.py."),
    Setting("keep_days", "--keep-days", "KEEP_DAYS", "Days after which those are deleted.",
            type=float, default="14", metavar="DAYS", shows_value=True),
    Setting("keep_gb", "--keep-gb", "KEEP_GB", "Gigabytes that those may take together; the oldest go first.",
            type=float, default="5", metavar="GB", shows_value=True),
)
# fmt: on


def table() -> str:
    """`SETTINGS` as the README's Markdown table; `python -c "from backend.settings import table; print(table())"`."""
    rows = ["| flag | variable | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        flag = " ".join(filter(None, (setting.flag, setting.metavar)))
        default = f" Default: {setting.default}." if setting.default else ""
        rows.append(
            f"| {f'`{flag}`' if flag else 'none'} | `{PREFIX}{setting.variable}`{setting.values} "
            f"| {setting.help}{default} |"
        )
    return "\n".join(rows)


@dataclass(frozen=True)
class CommandLine:
    """What `app.py` was started with: the settings, and what to do with them."""

    settings: Settings
    doctor: bool = False
    """Whether to examine this machine instead of opening the page."""
    json: bool = False
    """Whether the doctor prints JSON."""


def read_settings(
    arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """The settings of `read_command_line`, which says what is raised."""
    return read_command_line(arguments, environ).settings


def read_command_line(
    arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> CommandLine:
    """Settings and more from the command line (`sys.argv` if None) and the environment (`os.environ` if None).

    Raises:
        SystemExit: `--help`, or a flag argparse cannot read. BadSettingError: a value that makes no sense.
    """
    env = os.environ if environ is None else environ
    values = vars(_parser(env).parse_args(arguments))
    doctor, as_json = values.pop("doctor"), values.pop("json")
    for setting in SETTINGS:
        if setting.many:
            values[setting.field] = values.get(setting.field) or (setting.from_environment(env) or "").split()
        elif setting.flag is None:
            values[setting.field] = setting.from_environment(env) or None
    values["local_models"] = tuple(parse_model_path(text) for text in values["local_models"])
    known = {*MODELS, *(spec.name for spec in values["local_models"])}
    _check(values, known)
    values["endpoints"] = merge_endpoints(values["endpoints"], known)
    values["tokens"] = parse_tokens(values["tokens"] or "", known)
    values["folder"] = Path(values["folder"]) if values["folder"] else None
    settings = Settings(**values, cache_folder=cache_folder(env), on_space="SPACE_ID" in env)
    return CommandLine(settings, doctor, as_json)


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The flags of `app.py`; every default comes from the environment so that `--help` shows what will be used."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Latent Relay: Stable Diffusion image-to-image with the VAE running anywhere.",
        epilog="Each flag can also be set by the environment variable named in brackets; the flag wins.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for setting in SETTINGS:
        if setting.flag is None:
            continue
        text = f"{setting.help} [{PREFIX}{setting.variable}{setting.values}]"
        if setting.shows_value:
            text += " (now: %(default)s)"
        options: dict[str, Any] = {"dest": setting.field, "help": text}
        given = setting.from_environment(env)
        if setting.many:
            options |= {"action": "append", "metavar": setting.metavar}
        elif setting.type is bool:
            optional = setting.default is None
            options["action"] = argparse.BooleanOptionalAction if optional else "store_true"
            options["default"] = given in _YES if given or not optional else None
        else:
            options |= {"type": setting.type, "default": given, "metavar": setting.metavar}
        parser.add_argument(setting.flag, **options)
    instead = parser.add_argument_group("instead of opening the page")
    instead.add_argument(
        "--doctor",
        action="store_true",
        help="Examine this machine, try the VAE modes and a job on it (a minute or two), and end with status 0 only "
        "if all is well. Paste what it prints into a bug report.",
    )
    instead.add_argument(
        "--json", action="store_true", help="With --doctor: print everything it measured as JSON."
    )
    return parser


def _check(values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises BadSettingError for a value out of its range; `known` are the models' names."""
    if values["model"] not in ("auto", *known):
        raise BadSettingError(
            "There is no model called “{name}”.",
            "Known models: auto, {known}.",
            name=values["model"],
            known=", ".join(sorted(known)),
        )
    if values["low_memory"] not in LOW_MEMORY:
        raise BadSettingError(
            "--low-memory takes {choices}, not “{value}”.",
            choices=", ".join(LOW_MEMORY),
            value=values["low_memory"],
        )
    if values["remote_timeout"] <= 0:
        raise BadSettingError("The remote timeout must be more than 0 seconds.")
    if values["queue"] < 1:
        raise BadSettingError("The queue must have room for at least 1 job.")
    if not (values["keep_days"] > 0 and values["keep_gb"] > 0):  # also refuses NaN
        raise BadSettingError("Days and gigabytes to keep must be more than 0.")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where this app keeps what it learns: by the XDG rule, `~/.cache/latent-relay` if nothing else is said."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latent-relay"


def parse_endpoint(text: str, known: Collection[str] = MODELS) -> tuple[str, EndpointPair]:
    """`MODEL=URL` as (model, pair); `MODEL:encode=URL` or `MODEL:decode=URL` names one direction only.

    A bare URL is the base of another Latent Relay: `/encode` and `/decode` are appended.

    Raises:
        BadSettingError: not of that form, an unknown model, or not an http(s) URL.
    """
    subject, url = split_pair(text) or ("", "")
    name, _, direction = subject.partition(":")
    if not url or direction not in ("", "encode", "decode"):
        raise BadSettingError(
            "An endpoint is given as MODEL=URL, not as “{text}”.",
            "For example: sd-v1=http://192.0.2.7:7861/vae/sd-v1",
            text=text,
        )
    if name not in known:
        raise BadSettingError(
            "There is no model called “{name}”.",
            "Known models: {known}.",
            name=name,
            known=", ".join(sorted(known)),
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettingError(
            "“{url}” is not a web address.", "It must start with http:// or https://.", url=url
        )
    if direction:
        return name, EndpointPair(**{direction: url})
    base = url.rstrip("/")
    return name, EndpointPair(f"{base}/encode", f"{base}/decode")


def merge_endpoints(texts: Sequence[str], known: Collection[str] = MODELS) -> dict[str, EndpointPair]:
    """Several `parse_endpoint` texts as one table; later ones win direction by direction."""
    merged: dict[str, EndpointPair] = {}
    for text in texts:
        name, pair = parse_endpoint(text, known)
        before = merged.get(name, EndpointPair())
        merged[name] = EndpointPair(pair.encode or before.encode, pair.decode or before.decode)
    return merged


def parse_tokens(text: str, known: Collection[str] = MODELS) -> dict[str, str]:
    """`MODEL=TOKEN` pairs, separated by spaces, as a table. Errors never quote the text: it holds secrets.

    Raises:
        BadSettingError: not of that form, or an unknown model.
    """
    tokens = {}
    for pair in text.split():
        name, token = split_pair(pair) or ("", "")
        if name not in known:
            raise BadSettingError(
                "The tokens in {variable} are given as MODEL=TOKEN, separated by spaces.",
                "Known models: {known}.",
                variable=f"{PREFIX}TOKENS",
                known=", ".join(sorted(known)),
            )
        tokens[name] = token
    return tokens

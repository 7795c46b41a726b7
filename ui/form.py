"""The form's widgets, and how their values become one Job. No positional arguments: values are looked up by widget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from gradio.components import Component
from PIL import Image

from backend import images
from backend.errors import BadSettingError
from backend.job import (
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    SCHEDULERS,
    TRANSFERS,
    VAE_MODES,
    Job,
    Transfer,
    VaeOptions,
    fit_size,
)
from backend.models import MODELS, find_model
from backend.remote.user_endpoint import UserEndpoint
from ui.pictures import open_picture
from ui.user_endpoints import PREFIX

AS_ABOVE = "same"


@dataclass(frozen=True)
class Values:
    """What the form says, in plain types. Defaults are what an API caller gets who names nothing."""

    image: str | None
    prompt: str = ""
    strength: float | None = None
    model: str = "builtin"
    mode: str = "auto"
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    scheduler: str = "default"
    width: int | None = None
    height: int | None = None
    fit: images.Fit = "crop"
    tile_size: int = 512
    tile_overlap: int = 128
    encode_mode: str = AS_ABOVE
    decode_mode: str = AS_ABOVE
    transfer: str = "uint8"
    own: Mapping[str, UserEndpoint] = field(default_factory=dict, repr=False)
    """The visitor's endpoints, by what a mode's list calls them; no widget of the form, and in no link."""

    def picture(self, locale: str = "en") -> Image.Image:
        """The input at the size it is worked on, so that before and after cover each other."""
        picture = images.to_rgb(open_picture(self.image, locale))
        spec = find_model(self.model)
        width, height = fit_size(picture.size, spec, *self.size())
        return images.resize(picture, width, height, self.fit)

    def size(self) -> tuple[int | None, int | None]:
        """(width, height) as asked for; None is "as the picture is"."""
        return _or_none(self.width), _or_none(self.height)

    def vae(self, direction: str) -> VaeOptions:
        own = self.encode_mode if direction == "encode" else self.decode_mode
        mode = self.mode if own == AS_ABOVE else own
        return vae_options(mode, self.tile_size, self.tile_overlap, self.transfer, self.own)

    def job(self, picture: Image.Image) -> Job:
        return Job(
            image=picture,
            prompt=_plain(self.prompt),
            negative_prompt=_plain(self.negative_prompt),
            model=self.model,
            strength=self.strength,
            num_inference_steps=_whole("number of steps", self.steps),
            guidance_scale=self.guidance,
            seed=_whole("seed", self.seed),
            scheduler=self.scheduler,
            width=picture.width,
            height=picture.height,
            encode=self.vae("encode"),
            decode=self.vae("decode"),
        )


def vae_options(
    mode: str,
    tile: float | None = None,
    overlap: float | None = None,
    transfer: str = "uint8",
    own: Mapping[str, UserEndpoint] | None = None,
) -> VaeOptions:
    """A tab's widgets as options, checked.

    Raises:
        BadSettingError: sizes that make no sense, or an endpoint of the visitor's own that is forgotten by now.
    """
    endpoint = None
    if mode.startswith(PREFIX):
        endpoint = (own or {}).get(mode)
        if endpoint is None:
            raise BadSettingError(
                "This page does not know that endpoint any more.", "Add it again in the tab Endpoints."
            )
        mode = "remote"
    usual = VaeOptions()
    side, shared = _whole("tile size", tile), _whole("tile overlap", overlap)
    return VaeOptions(
        mode,
        usual.tile_size if side is None else side,
        usual.tile_overlap if shared is None else shared,
        cast(Transfer, transfer),
        endpoint,
    ).checked()


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the visitor's own endpoints, which mean nothing to anybody else."""
    return {
        name: "remote" if isinstance(value, str) and value.startswith(PREFIX) else value
        for name, value in settings.items()
    }


def clean(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that the form can show, with the form's types. `raw` may come from a file or a link,
    so what makes no sense is left out rather than refused."""
    settings: dict[str, Any] = {}
    for name, (kind, low, high) in _NUMBERS.items():
        try:
            value = kind(float(raw[name]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if low <= value <= high:
            settings[name] = value
    for name in ("prompt", "negative_prompt"):
        if isinstance(raw.get(name), str):
            settings[name] = raw[name][:MAX_PROMPT]
    modes = (*VAE_MODES, AS_ABOVE)
    choices = {
        "model": [spec.name for spec in MODELS.values() if spec.available],
        "scheduler": ["default", *SCHEDULERS],
        "fit": ["crop", "fit", "stretch"],
        "transfer": TRANSFERS,
        "mode": VAE_MODES,
        "encode_mode": modes,
        "decode_mode": modes,
    }
    return settings | {name: raw[name] for name, known in choices.items() if raw.get(name) in known}


_NUMBERS: dict[str, tuple[type, float, float]] = {
    "strength": (float, 0, 1),
    "steps": (int, 1, MAX_STEPS),
    "guidance": (float, 0, 50),
    "seed": (int, -1, MAX_SEED),
    "width": (int, 0, MAX_SIDE),
    "height": (int, 0, MAX_SIDE),
    "tile_size": (int, 64, 1024),
    "tile_overlap": (int, 0, 256),
}


def _plain(text: str | None) -> str:
    """Text that can be written as UTF-8: half a surrogate pair, which JSON lets through, becomes a question mark."""
    return (text or "").encode("utf-8", "replace").decode()


def _whole(name: str, value: float | None) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError) as error:  # NaN, infinity
        raise BadSettingError(f"The {name} must be a whole number, not {value}.") from error


def _or_none(side: float | None) -> int | None:
    """An empty field and 0 both mean "as the picture is"."""
    return _whole("width and height", side) or None


@dataclass(frozen=True)
class Form:
    """The widgets, by the names of `Values`."""

    image: Component
    prompt: Component
    strength: Component
    model: Component
    mode: Component
    negative_prompt: Component
    steps: Component
    guidance: Component
    seed: Component
    scheduler: Component
    width: Component
    height: Component
    fit: Component
    tile_size: Component
    tile_overlap: Component
    encode_mode: Component
    decode_mode: Component
    transfer: Component

    def widgets(self) -> set[Component]:
        return {getattr(self, field.name) for field in fields(self)}

    def read(self, data: Mapping[Component, Any]) -> Values:
        return Values(**{field.name: data[getattr(self, field.name)] for field in fields(self)})

    def shows(self, settings: Mapping[str, Any]) -> dict[Component, Any]:
        """Values of the form, by their names, as changes to its widgets."""
        return {getattr(self, name): value for name, value in settings.items() if name != "image"}

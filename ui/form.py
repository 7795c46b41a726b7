"""The form of the main tab: its widgets, their values in plain types, and the job that the values ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast, get_args

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
    UserEndpoint,
    VaeOptions,
    fit_size,
)
from backend.message import Message
from backend.models import ModelSpec
from backend.studio import Studio
from ui.pictures import open_picture
from ui.user_endpoints import PREFIX
from ui.widgets import AS_ABOVE, choose_from, mode_choices, mode_override_choices, scheduler_choices

MAX_SLIDER_STEPS, MAX_SLIDER_GUIDANCE = 100, 20
"""Where the sliders end; the API takes more."""
Changes = dict[Component, Any]
"""New values or updates by widget, as an event handler returns them."""


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
    endpoints: Mapping[str, UserEndpoint] = field(default_factory=dict, repr=False)
    """The visitor's endpoints, by the values that stand for them in a choice of modes; in no widget and no link."""

    def picture(self, spec: ModelSpec, locale: str = "en") -> Image.Image:
        """The input, RGB, at the size it is worked on, so that before and after cover each other.

        Raises:
            BadImageError, BadSettingError: no picture that can be read, or a size out of range.
        """
        if self.fit not in get_args(images.Fit):
            raise BadSettingError(
                "A picture can be made to fit by {known}, not by “{fit}”.",
                known=", ".join(get_args(images.Fit)),
                fit=str(self.fit)[:80],
            )
        picture = images.to_rgb(open_picture(self.image, locale))
        return images.resize(picture, *self.fitted(picture.size, spec), self.fit)

    def fitted(self, size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
        """(width, height) that a picture of `size` is worked on at; an empty field and 0 follow the picture."""
        width, height = (
            _whole(side, Message("The width and height must be a whole number, not {value}.", value=side))
            for side in (self.width, self.height)
        )
        return fit_size(size, spec, width or None, height or None)

    def vae(self, direction: str) -> VaeOptions:
        override = self.encode_mode if direction == "encode" else self.decode_mode
        mode = self.mode if override == AS_ABOVE else override
        return vae_options(mode, self.tile_size, self.tile_overlap, self.transfer, self.endpoints)

    def job(self, picture: Image.Image) -> Job:
        return Job(
            image=picture,
            prompt=_plain(self.prompt),
            negative_prompt=_plain(self.negative_prompt),
            model=self.model,
            strength=self.strength,
            num_inference_steps=_whole(
                self.steps,
                Message("The number of steps must be a whole number, not {value}.", value=self.steps),
            ),
            guidance_scale=self.guidance,
            seed=_whole(self.seed, Message("The seed must be a whole number, not {value}.", value=self.seed)),
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
    endpoints: Mapping[str, UserEndpoint] | None = None,
) -> VaeOptions:
    """A tab's widgets as options, checked.

    Raises:
        BadSettingError: sizes that make no sense, or a visitor's endpoint that is forgotten by now.
    """
    endpoint = None
    if mode.startswith(PREFIX):
        endpoint = (endpoints or {}).get(mode)
        if endpoint is None:
            raise BadSettingError(
                "This page does not know that endpoint any more.", "Add it again in the tab Endpoints."
            )
        mode = "remote"
    usual = VaeOptions()
    side = _whole(tile, Message("The tile size must be a whole number, not {value}.", value=tile))
    shared = _whole(overlap, Message("The tile overlap must be a whole number, not {value}.", value=overlap))
    return VaeOptions(
        mode,
        usual.tile_size if side is None else side,
        usual.tile_overlap if shared is None else shared,
        cast(Transfer, transfer),
        endpoint,
    ).checked()


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the visitor's endpoints, which mean nothing to anybody else."""
    return {
        name: "remote" if isinstance(value, str) and value.startswith(PREFIX) else value
        for name, value in settings.items()
    }


def clean(raw: Mapping[str, Any], models: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """Those of the settings that the form can show, with the form's types; `models` are the ones offered here.

    `raw` may come from a file or a link, so what makes no sense is left out rather than refused.
    """
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
        "model": [spec.name for spec in models.values() if spec.available],
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
    """Text that can be written as UTF-8: a lone surrogate, which JSON lets through, becomes a question mark."""
    return (text or "").encode("utf-8", "replace").decode()


def _whole(value: float | None, complaint: Message) -> int | None:
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError) as error:  # NaN, infinity
        raise BadSettingError(complaint) from error


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

    def settings(self) -> list[Component]:
        """All but the picture, in the order they were made."""
        return sorted(self.widgets() - {self.image}, key=lambda widget: widget._id)

    def read(self, data: Mapping[Component, Any]) -> Values:
        """The values of those widgets that `data` holds; of the others the defaults."""
        known = {field.name: data[w] for field in fields(self) if (w := getattr(self, field.name)) in data}
        return Values(**{"image": None, **known})

    def update(
        self,
        settings: Mapping[str, Any],
        studio: Studio,
        endpoints: Mapping[str, UserEndpoint],
        locale: str,
        *,
        model: str,
    ) -> Changes:
        """What sets these settings (names of `Values`), together with the choices that they are chosen from.

        `model` is the one in the form now. Settings that name a model bring its own strength, steps and guidance where
        they name none. A mode or scheduler that the model does not have becomes the first of its choices.
        """
        spec = studio.find_model(settings.get("model", model))
        settings = dict(settings)
        if "model" in settings:
            defaults = {
                "strength": spec.strength,
                "steps": spec.num_inference_steps,
                "guidance": spec.guidance_scale,
                **dict.fromkeys(("scheduler", "mode", "encode_mode", "decode_mode")),
            }
            settings = defaults | settings
        for name, limit in (("steps", MAX_SLIDER_STEPS), ("guidance", MAX_SLIDER_GUIDANCE)):
            if name in settings:
                settings[name] = min(settings[name], limit)
        choices = {
            "scheduler": scheduler_choices(spec),
            "mode": mode_choices(spec, endpoints, locale),
            "encode_mode": mode_override_choices(spec, endpoints, locale),
            "decode_mode": mode_override_choices(spec, endpoints, locale),
        }
        return {
            getattr(self, name): choose_from(choices[name], value) if name in choices else value
            for name, value in settings.items()
        }

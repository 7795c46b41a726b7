"""A job: what a person asked for, checked and completed. Plain data, no torch."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from backend import families
from backend.errors import BadSettingError
from backend.logs import new_id
from backend.message import Message
from backend.models import ModelSpec
from backend.prompt_words import understood
from backend.token import Token

VaeMode = Literal["auto", "whole", "tiled", "streamed", "remote", "tiny"]
VAE_MODES: tuple[VaeMode, ...] = ("auto", "whole", "streamed", "tiled", "remote", "tiny")


Transfer = Literal["uint8", "float32", "float16", "png", "jpg"]
TRANSFERS: tuple[Transfer, ...] = ("uint8", "float32", "float16", "png", "jpg")
"""The form a *picture* travels in, either way; latents always go as a tensor in the dtype they have."""

LOSSLESS: dict[Transfer, bool] = {"uint8": True, "float32": True, "float16": False, "png": True, "jpg": False}
"""Whether an 8-bit picture survives the way unchanged."""


def vae_modes(spec: ModelSpec) -> tuple[VaeMode, ...]:
    """The modes that this model has; not every model has a tiny VAE."""
    return tuple(mode for mode in VAE_MODES if mode != "tiny" or spec.tiny_vae is not None)


SCHEDULERS: dict[str, str] = {
    "DDIM": "DDIMScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler a": "EulerAncestralDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
    "PNDM": "PNDMScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
"""What the page offers, by the field's usual names, and diffusers' class for each. "default" is the model's own."""

MAX_SIDE = 4096
MAX_STEPS = 150
MAX_PROMPT = 10_000
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class UserEndpoint:
    """A VAE that a visitor added on the page, at up to two addresses. It lives in memory only; no recipe holds it."""

    name: str
    models: tuple[str, ...]
    """Names of the models here whose latents it takes and gives."""
    encode: str | None
    decode: str | None
    token: Token | None = field(default=None, repr=False)
    public_only: bool = True
    """Whether only public addresses may be called for it: always, unless nobody but the owner visits the page."""

    @property
    def host(self) -> str:
        return urlsplit(self.encode or self.decode or "").netloc


@dataclass(frozen=True)
class VaeOptions:
    """Where a VAE stage should run, the sizes that the modes take (pixels), and what a remote one is sent.

    `endpoint`, in the mode remote only, is a visitor's, used in place of the model's; no recipe holds it.
    """

    mode: str = "auto"
    tile_size: int = 512
    tile_overlap: int = 128
    transfer: Transfer = "uint8"
    endpoint: UserEndpoint | None = None

    def checked(self) -> VaeOptions:
        """Return self if valid.

        Raises:
            BadSettingError: an unknown mode, or sizes that make no sense.
        """
        if self.mode not in VAE_MODES:
            raise BadSettingError(
                "There is no VAE mode called “{mode}”.",
                "The modes are {known}.",
                mode=self.mode,
                known=", ".join(VAE_MODES),
            )
        if self.transfer not in TRANSFERS:
            raise BadSettingError(
                "Pictures do not travel as “{transfer}”.",
                "They do as {known}.",
                transfer=self.transfer,
                known=", ".join(TRANSFERS),
            )
        if not 64 <= self.tile_size <= MAX_SIDE:
            raise BadSettingError(
                "The tile size must be between 64 and {max_side} pixels, not {size}.",
                max_side=MAX_SIDE,
                size=self.tile_size,
            )
        if not 0 <= self.tile_overlap <= self.tile_size // 2:
            raise BadSettingError(
                "The tile overlap must be between 0 and half a tile ({half}), not {overlap}.",
                half=self.tile_size // 2,
                overlap=self.tile_overlap,
            )
        return self


@dataclass(frozen=True)
class Job:
    """One image-to-image job as a person asks for it. None means "as the model likes it"."""

    image: Image.Image
    prompt: str
    negative_prompt: str = ""
    model: str = "builtin"
    strength: float | None = None
    """How much may change: 0 gives the picture back through the VAE, 1 keeps nothing of it."""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str = "default"
    width: int | None = None
    height: int | None = None
    encode: VaeOptions = VaeOptions()
    decode: VaeOptions = VaeOptions()

    def resolve(self, spec: ModelSpec) -> ResolvedJob:
        """The job checked and complete: every open value as `spec`, the model of that name, likes it.

        Raises:
            BadSettingError: with a sentence that says which value and its range.
        """
        strength = _number(Message("strength"), self.strength, spec.strength, 0.0, 1.0)
        steps = _number(
            Message("number of steps"), self.num_inference_steps, spec.num_inference_steps, 1, MAX_STEPS
        )
        guidance = _number(Message("guidance"), self.guidance_scale, spec.guidance_scale, 0.0, 50.0)
        seed = secrets.randbelow(MAX_SEED + 1) if self.seed in (None, -1) else self.seed
        if seed is None or not 0 <= seed <= MAX_SEED:
            raise BadSettingError(
                "The seed must be between 0 and {max_seed}, not {seed}.", max_seed=MAX_SEED, seed=seed
            )
        for prompt in (self.prompt, self.negative_prompt):
            _check_prompt(prompt)
        _check_scheduler(self.scheduler, spec)
        width, height = fit_size(self.image.size, spec, self.width, self.height)
        return ResolvedJob(
            image=self.image,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            model=spec.name,
            strength=strength,
            num_inference_steps=int(steps),
            guidance_scale=guidance,
            seed=seed,
            scheduler=self.scheduler,
            width=width,
            height=height,
            encode=self.encode.checked(),
            decode=self.decode.checked(),
            spec=spec,
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedJob(Job):
    """A checked job with nothing left open; this is what runs and what the recipe records."""

    strength: float
    num_inference_steps: int
    guidance_scale: float
    seed: int
    width: int
    height: int
    spec: ModelSpec
    run_id: str = field(default_factory=new_id)
    """New with each run; in its reports, its errors and the log."""

    @property
    def steps_to_run(self) -> int:
        """diffusers' img2img runs the last `strength` share of the schedule."""
        return families.steps_to_run(self.spec, self.num_inference_steps, self.strength, self.scheduler)

    @property
    def model_prompt(self) -> str:
        """The prompt as the model gets it: in the words it knows, if it is one that knows few."""
        return self._in_its_words(self.prompt) or self.prompt

    @property
    def model_negative_prompt(self) -> str:
        return self._in_its_words(self.negative_prompt) or self.negative_prompt

    def _in_its_words(self, prompt: str) -> str | None:
        """The prompt translated; None for one that stays as it is."""
        known = understood(prompt) if self.spec.translates_prompts else None
        return known and known.prompt

    def recipe(self) -> dict[str, Any]:
        """Everything needed to do it again, JSON-ready, without the picture."""
        translated = {
            "prompt_understood_as": self._in_its_words(self.prompt),
            "negative_prompt_understood_as": self._in_its_words(self.negative_prompt),
        }
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            **{name: words for name, words in translated.items() if words is not None},
            "model": self.spec.name,
            "strength": self.strength,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "scheduler": self.scheduler,
            "width": self.width,
            "height": self.height,
            "encode_mode": self.encode.mode,
            "decode_mode": self.decode.mode,
            "tile_size": self.decode.tile_size,
            "tile_overlap": self.decode.tile_overlap,
            "transfer": self.decode.transfer,
        }


def fit_size(
    size: tuple[int, int], spec: ModelSpec, width: int | None = None, height: int | None = None
) -> tuple[int, int]:
    """(width, height) to work at: as asked, else near the model's native area in the picture's own shape.

    Both are rounded to whole latents (and to whole patches for a model that packs them).

    Raises:
        BadSettingError: a side outside 64 to MAX_SIDE.
    """
    grid = spec.size_multiple
    for side in (width, height):
        if side is not None and not 64 <= side <= MAX_SIDE:
            raise BadSettingError(
                "Width and height must be between 64 and {max_side} pixels, not {side}.",
                max_side=MAX_SIDE,
                side=side,
            )
    aspect = size[0] / size[1]
    if width is None and height is None:
        area = spec.native_size**2
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    elif width is None:
        assert height is not None
        width = round(height * aspect)
    elif height is None:
        height = round(width / aspect)

    def to_grid(side: int) -> int:
        return min(MAX_SIDE, max(64, round(side / grid) * grid))

    return to_grid(width), to_grid(height)


def _number(name: Message, value: float | None, default: float, low: float, high: float) -> float:
    if value is None:
        return default
    if not low <= value <= high:  # also refuses NaN
        raise BadSettingError(
            "The {name} must be between {low:g} and {high:g}, not {value:g}.",
            name=name,
            low=low,
            high=high,
            value=value,
        )
    return value


def _check_prompt(text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise BadSettingError(
            "The prompt is longer than {max_letters} letters.", "Please shorten it.", max_letters=MAX_PROMPT
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # a lone surrogate
        raise BadSettingError(
            "The prompt holds half a letter, which cannot be written.", "Please type it anew."
        )


def _check_scheduler(name: str, spec: ModelSpec) -> None:
    if name != "default" and name not in SCHEDULERS:
        raise BadSettingError(
            "There is no scheduler called “{name}”.",
            "Known: default, {known}.",
            name=name,
            known=", ".join(SCHEDULERS),
        )
    if name not in spec.schedulers:
        raise BadSettingError(
            "{model} does not work with the scheduler {name}.",
            "It takes {known}.",
            model=spec.title_message,
            name=name,
            known=", ".join(spec.schedulers),
        )

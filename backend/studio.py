"""The one object the page, the API and the endpoint hold: settings, loaded models, VAE modes, img2img.

Making a Studio loads nothing; torch and diffusers come in with the first piece of work, or with `warm_up`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from backend.job import Event, Job, VaeOptions
from backend.report import StageReport
from backend.settings import Settings

if TYPE_CHECKING:
    import torch


class Studio:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.own_url: str | None = None
        """Base URL of this app once it listens, e.g. http://127.0.0.1:7860; the built-in model's remote."""

    def default_model(self) -> tuple[str, str]:
        """(model name, friendly reason) for this machine, without importing torch where there is no GPU."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Import the heavy libraries and load the default model; for a background thread after launch."""
        raise NotImplementedError

    def img2img(self, job: Job, stop: threading.Event | None = None) -> Iterator[Event]:
        """Run a job; see `backend.img2img.run`. Setting `stop` or closing the generator cancels it."""
        raise NotImplementedError

    def encode(
        self, image: Image.Image, model: str, options: VaeOptions, stop: threading.Event | None = None
    ) -> tuple[torch.Tensor, StageReport]:
        """A picture (any PIL mode, already at the wanted size) to scaled latents (1, C, h, w) on the CPU."""
        raise NotImplementedError

    def decode(
        self, latents: torch.Tensor, model: str, options: VaeOptions, stop: threading.Event | None = None
    ) -> tuple[Image.Image, StageReport]:
        """Scaled latents (1, C, h, w) to an RGB picture."""
        raise NotImplementedError

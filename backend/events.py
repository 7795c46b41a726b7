"""What a run tells on its way: frozen data that the page, the API and the tests consume alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from backend.errors import LatentRelayError
from backend.message import Message
from backend.report import Stage, StageReport

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Waiting:
    """Someone else's job holds the device, or a model is being loaded."""

    message: Message


@dataclass(frozen=True)
class Downloading:
    """Weights are on their way from the model hub, in bytes.

    `seconds_left` and `bytes_per_second` are those of the present speed, None where nothing arrives.
    """

    title: str
    done: int
    total: int
    seconds_left: float | None
    bytes_per_second: float | None = None


@dataclass(frozen=True)
class StageStarted:
    stage: Stage
    mode: str
    reason: Message
    where: Message


@dataclass(frozen=True)
class Step:
    """One denoising step done. `preview` is a cheap look at the latents, `seconds_left` a guess."""

    step: int
    steps: int
    preview: Image.Image | None
    seconds_left: float | None


@dataclass(frozen=True)
class StageDone:
    """A stage's report; `latents` after encode and denoise, scaled, on the CPU."""

    report: StageReport
    latents: torch.Tensor | None = None


@dataclass(frozen=True)
class Result:
    """The finished picture, and all it took."""

    image: Image.Image
    latents: torch.Tensor
    reports: tuple[StageReport, ...]
    recipe: dict[str, Any]


Event = Waiting | Downloading | StageStarted | Step | StageDone | Result


@dataclass(frozen=True)
class Failed:
    """One picture of a batch could not be finished. What its events gave before stays, and the others go on."""

    error: LatentRelayError


@dataclass(frozen=True)
class InBatch:
    """An event of the picture `index` (from 0) of a batch; those of two pictures may mix."""

    index: int
    event: Event | Failed

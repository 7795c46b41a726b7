"""The recipe: every number that decides how the built-in model turns out, in one place."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Budget:
    """How long a training stage lasts: minutes of its own running time (kills don't count), or steps,
    if given.
    """

    minutes: float
    steps: int | None = None

    def share(self, seconds: float, step: int) -> float:
        """The part of the stage that is done, in [0, 1]; learning rates follow it."""
        spent, whole = (seconds, self.minutes * 60) if self.steps is None else (step, self.steps)
        return min(1.0, spent / whole) if whole else 1.0


@dataclass(frozen=True)
class DataSettings:
    seed: int = 4
    scenes: int = 15_000
    generic: int = 2_500
    heldout: int = 500
    shard: int = 250
    captions: int = 6


@dataclass(frozen=True)
class VaeSettings:
    channels: tuple[int, ...] = (24, 48, 128)
    layers: int = 1
    groups: int = 2
    budget: Budget = Budget(minutes=45)
    # Crop size and batch a process, and the share of the stage at which each begins: small crops first.
    crops: tuple[tuple[float, int, int], ...] = ((0.0, 64, 8), (0.4, 128, 2), (0.85, 256, 1))
    learning_rate: float = 3e-4
    matrix_learning_rate: float = 8e-4
    ema: float = 0.998
    decoder_budget: Budget = Budget(minutes=20)
    kl: float = 4e-4
    scene_share: float = 0.45
    photo_share: float = 0.35


@dataclass(frozen=True)
class DenoiserSettings:
    channels: tuple[int, ...] = (32, 32, 64, 192)
    layers: int = 1
    text_width: int = 192
    text_layers: int = 2
    text_heads: int = 6
    vocabulary: int = 1200
    tokens: int = 32
    budget: Budget = Budget(minutes=180)
    scenes: int = 15_000
    # Half-size latents and batch a process first (a quarter of the work), then the real size.
    half_until: float = 0.3
    # Afterwards, this share of the steps removes light noise from 16 x 16 crops: texture is local, and a crop
    # costs a quarter of a picture.
    crop_share: float = 0.5
    crop_times: float = 0.65
    # Exponent of the times of whole pictures: late ones, where a scene is composed, come more often.
    time_power: float = 0.7
    half_batch: int = 48
    batch: int = 16
    learning_rate: float = 6e-4
    matrix_learning_rate: float = 2e-3
    ema: float = 0.998
    caption_dropout: float = 0.1


@dataclass(frozen=True)
class Recipe:
    data: DataSettings = field(default_factory=DataSettings)
    vae: VaeSettings = field(default_factory=VaeSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    save_every: float = 120.0


@dataclass(frozen=True)
class Run:
    """Where and on what a recipe is carried out. `workers`: processes on CPU; a CUDA run has one. `start`: an
    exported model whose weights training begins with, where there is no checkpoint yet.
    """

    work: Path
    device: str = "cpu"
    workers: int = 2
    start: Path | None = None

    @property
    def process_count(self) -> int:
        """How many processes train."""
        return self.workers if self.device == "cpu" else 1

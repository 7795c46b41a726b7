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
    heldout: int = 100
    shard: int = 50
    captions: int = 8


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
    # In the decoder's own stage, this share of the steps shows what the denoiser leaves of noised latents.
    denoised_share: float = 0.5
    denoised_times: tuple[int, int] = (100, 350)
    denoised_steps: int = 3
    kl: float = 4e-4
    scene_share: float = 0.45
    photo_share: float = 0.35


@dataclass(frozen=True)
class TwinSettings:
    """How img2img is practised. `share` of the samples start at the latents of a twin, noised to a strength within
    `strengths`; 0 is the control. `sketched` of them start at a sketch, the rest at another painting; where hour,
    season or weather must change, strengths are at least `recolour_from`: below, img2img is asked to keep colours.
    """

    share: float = 0.45
    sketched: float = 0.6
    strengths: tuple[float, float] = (0.35, 0.85)
    recolour_from: float = 0.5


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
    twins: TwinSettings = field(default_factory=TwinSettings)
    # Half-size latents and batch a process first (a quarter of the work), then the real size.
    half_until: float = 0.3
    # Afterwards, this share of the steps removes light noise from 16 x 16 crops: texture is local, and a crop
    # costs a quarter of a picture.
    crop_share: float = 0.5
    crop_times: float = 0.65
    # Exponent of the times of whole pictures: late ones, where a scene is composed, come more often.
    time_power: float = 0.7
    # At the end, this share of the steps composes at 512 x 512: latents enlarged to twice the side, late times only, so
    # that their softness is not learned.
    large_from: float = 0.8
    large_share: float = 0.2
    large_times: tuple[float, float] = (0.5, 1.0)
    large_batch: int = 4
    half_batch: int = 48
    batch: int = 16
    learning_rate: float = 6e-4
    matrix_learning_rate: float = 2e-3
    # Both times this where training begins with a finished model.
    started_rate: float = 0.2
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
    exported model whose weights training begins with, where there is no checkpoint yet. `data`: pictures and latents of
    another run, for one that is compared with it.
    """

    work: Path
    device: str = "cpu"
    workers: int = 2
    start: Path | None = None
    data: Path | None = None

    @property
    def pictures(self) -> Path:
        """Where the painted pictures and their latents are."""
        return self.data or self.work

    @property
    def process_count(self) -> int:
        """How many processes train."""
        return self.workers if self.device == "cpu" else 1

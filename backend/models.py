"""Everything that differs between model families, as data.

Adding a model of a known family is one more entry in `MODELS`. Nothing here loads anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.errors import UnknownModelError

BUILTIN_FOLDER = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class LatentSpec:
    """What the numbers in a model's latents mean.

    A VAE's raw latents `z` become the denoiser's latents as `(z - shift_factor) * scaling_factor`
    (Rombach et al. 2022, appendix G, for the scaling; Flux added the shift).
    """

    channels: int
    downscale: int
    scaling_factor: float
    shift_factor: float | None = None
    packed: bool = False
    """Whether the denoiser takes 2x2 patches as tokens, (B, H/2 * W/2, 4C), as Flux does."""


@dataclass(frozen=True)
class ModelSpec:
    """One model the app can offer; `repository` is a hub name or a local folder in diffusers' format."""

    name: str
    title: str
    plain: str
    family: str
    pipeline: str
    repository: str
    vae_repository: str | None
    variant: str | None
    dtype: str
    native_size: int
    latents: LatentSpec
    licence: str
    encode_endpoint: str | None = None
    decode_endpoint: str | None = None
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    strength: float = 0.6
    preview: tuple[tuple[float, float, float], ...] = ()
    """Linear map from each latent channel to RGB in [-1, 1]; the last row is the bias. For previews only."""
    vae_block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """The VAE's channels from full resolution down, as in its config; known here so that a forecast loads nothing."""
    available: bool = True

    @property
    def size_multiple(self) -> int:
        """Pixels that width and height must be multiples of: one latent, or one patch of two by two."""
        return self.latents.downscale * (2 if self.latents.packed else 1)

    @property
    def is_local(self) -> bool:
        return Path(self.repository).is_dir()


SD_V1_LATENTS = LatentSpec(channels=4, downscale=8, scaling_factor=0.18215)
SDXL_LATENTS = LatentSpec(channels=4, downscale=8, scaling_factor=0.13025)
FLUX_LATENTS = LatentSpec(channels=16, downscale=8, scaling_factor=0.3611, shift_factor=0.1159, packed=True)

# The public Hybrid Inference endpoints, as named in diffusers.utils.constants. Unmaintained: they may be gone.
_HF = "https://{}.us-east-1.aws.endpoints.huggingface.cloud/"

BUILTIN = ModelSpec(
    name="builtin",
    title="Built-in landscape painter",
    plain="Small and quick, needs no graphics card and no download; paints landscapes only.",
    family="sd",
    pipeline="StableDiffusionImg2ImgPipeline",
    repository=str(BUILTIN_FOLDER),
    vae_repository=None,
    variant=None,
    dtype="float32",
    native_size=256,
    latents=LatentSpec(channels=4, downscale=8, scaling_factor=0.4846227765083313),
    licence="apache-2.0",
    num_inference_steps=20,
    guidance_scale=4.0,
    strength=0.65,
    # Least-squares fit of decoded colours on latents over smooth random pictures: R² = 0.995.
    preview=(
        (0.4152, 0.0401, 0.0108),
        (0.0374, 0.3942, 0.0587),
        (0.0160, 0.0516, 0.4368),
        (-0.0276, -0.0366, 0.0145),
        (-0.0114, -0.0358, -0.0481),
    ),
    vae_block_out_channels=(24, 48, 96, 128),
)

SD_V1 = ModelSpec(
    name="sd-v1",
    title="Stable Diffusion v1.5",
    plain="The classic: any subject, 512 pixels, wants a graphics card with 4 GB or more.",
    family="sd",
    pipeline="StableDiffusionImg2ImgPipeline",
    repository="stable-diffusion-v1-5/stable-diffusion-v1-5",
    vae_repository="stabilityai/sd-vae-ft-mse",
    variant="fp16",
    dtype="float16",
    native_size=512,
    latents=SD_V1_LATENTS,
    licence="creativeml-openrail-m",
    encode_endpoint=_HF.format("qc6479g0aac6qwy9"),
    decode_endpoint=_HF.format("q1bj3bpq6kzilnsu"),
    # Least-squares fit of decoded pixels on latents, as published with ComfyUI's SD 1.5 latent format.
    preview=(
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
        (0.0, 0.0, 0.0),
    ),
)

SDXL = ModelSpec(
    name="sdxl",
    title="Stable Diffusion XL",
    plain="Sharper and larger, 1024 pixels, wants a graphics card with 8 GB or more.",
    family="sdxl",
    pipeline="StableDiffusionXLImg2ImgPipeline",
    repository="stabilityai/stable-diffusion-xl-base-1.0",
    vae_repository="madebyollin/sdxl-vae-fp16-fix",
    variant="fp16",
    dtype="float16",
    native_size=1024,
    latents=SDXL_LATENTS,
    licence="openrail++",
    encode_endpoint=_HF.format("xjqqhmyn62rog84g"),
    decode_endpoint=_HF.format("x2dmsqunjd6k9prw"),
    guidance_scale=5.0,
    available=False,
)

FLUX = ModelSpec(
    name="flux-schnell",
    title="FLUX.1 schnell",
    plain="The newest and largest, four steps, wants a graphics card with 24 GB or more.",
    family="flux",
    pipeline="FluxImg2ImgPipeline",
    repository="black-forest-labs/FLUX.1-schnell",
    vae_repository=None,
    variant=None,
    dtype="bfloat16",
    native_size=1024,
    latents=FLUX_LATENTS,
    licence="apache-2.0",
    encode_endpoint=_HF.format("ptccx55jz97f9zgo"),
    decode_endpoint=_HF.format("whhx50ex1aryqvw6"),
    num_inference_steps=4,
    guidance_scale=0.0,
    available=False,
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in (BUILTIN, SD_V1, SDXL, FLUX)}


def find_model(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
        UnknownModelError: no such name, or a model that is announced but cannot run yet.
    """
    spec = MODELS.get(name)
    if spec is None:
        known = ", ".join(sorted(MODELS))
        raise UnknownModelError(f"There is no model called “{name[:80]}”.", f"Known models: {known}.")
    if not spec.available:
        raise UnknownModelError(
            f"{spec.title} is not ready in this version yet.", "Please choose another model."
        )
    return spec

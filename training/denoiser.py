"""Training the denoiser: a small UNet and its text encoder on cached latents, predicting v (Salimans
and Ho 2022).
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from training.data import Pictures
from training.latents import scaling_factor
from training.process_group import ProcessGroup
from training.settings import DenoiserSettings, Recipe, Run
from training.text import new_text_encoder, token_ids
from training.trainer import Muon, Trainer, matrices_and_rest

TIMES = 1000
SNR_CAP = 5.0
MIRROR_CHANCE = 0.5


def new_scheduler() -> DDIMScheduler:
    """Zero signal at the last step and trailing steps (Lin et al. 2024, "Common Diffusion Noise Schedules ... Are
    Flawed"): these latents resemble small pictures, whose mean brightness otherwise leaks through the noise, and a
    night could never be painted from scratch. It also makes few steps look good.

    The betas are SD v1's own, made for latents of 64 x 64. Ours have that size too: on 32 x 32 the same noise would
    hide twice as much of a picture (Hoogeboom et al. 2023, "simple diffusion", section 2.1), and a strength would keep
    less of a sketch than people are used to.
    """
    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


def new_unet(settings: DenoiserSettings) -> UNet2DConditionModel:
    """Attention only at the coarsest level: there it is cheap, and that is where a scene is composed."""
    plain = len(settings.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        cross_attention_dim=settings.text_width,
        attention_head_dim=tuple(max(1, width // 32) for width in settings.channels),
        norm_num_groups=8,
        use_linear_projection=True,
    )
    start_unet(unet)
    return unet


@torch.no_grad()
def start_unet(unet: UNet2DConditionModel) -> None:
    """Unit-gain convolutions, quiet residual and attention branches, an output of zero."""
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Conv2d):
            reach = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
            gain = {"conv1": 1.4, "conv2": 0.1}.get(name.rpartition(".")[2], 1.0)
            nn.init.normal_(layer.weight, 0, gain * reach**-0.5)
            nn.init.zeros_(layer.bias)
        elif name.endswith(("proj_out", "to_out.0", "ff.net.2")):
            layer.weight *= 0.2
    nn.init.zeros_(unet.conv_out.weight)


@torch.no_grad()
def start_from(unet: UNet2DConditionModel, finished: UNet2DConditionModel) -> None:
    """Take over a finished UNet's weights. One that lacks the finest level becomes the levels below it: the new level
    first hands down half the sum of four neighbours, in which noise stays as strong as it was.

    Raises RuntimeError where the shapes do not fit.
    """
    weights = finished.state_dict()
    if len(finished.config.block_out_channels) == len(unet.config.block_out_channels):
        unet.load_state_dict(weights)
        return
    inner = {
        re.sub(r"^down_blocks\.(\d+)", lambda level: f"down_blocks.{int(level[1]) + 1}", name): value
        for name, value in weights.items()
        if not name.startswith("conv_out")
    }
    unknown = unet.load_state_dict(inner, strict=False).unexpected_keys
    if unknown:
        raise RuntimeError(f"The model to start from has other parts: {', '.join(unknown[:3])}")
    (downsampler,) = unet.down_blocks[0].downsamplers
    nn.init.zeros_(downsampler.conv.weight)
    downsampler.conv.weight[:, :, 1:, 1:] = torch.eye(downsampler.channels)[..., None, None] / 2


def pipeline_of(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def learning_rate(share: float) -> float:
    """A short warm-up, constant for the first half, then a straight line down to 3 %."""
    return min(1.0, 0.05 + share / 0.01) * min(1.0, 0.03 + 0.97 * (1 - share) / 0.5)


def noised(
    latents: torch.Tensor, times: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents at their times and the v to predict there; `kept` is the schedule's cumulative product of
    alphas.
    """
    alpha = kept[times].view(-1, 1, 1, 1)
    noise = torch.randn_like(latents)
    at_time = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    return at_time, alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def random_crop(latents: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A quarter of each picture, at one random place for the whole batch (Wang et al. 2023, "Patch
    Diffusion").
    """
    side = latents.shape[-1] // 2
    top, left = rng.integers(0, side + 1, 2)
    return latents[..., top : top + side, left : left + side]


def spread_times(count: int, device: str, until: float = 1.0, power: float = 1.0) -> torch.Tensor:
    """One time from each of `count` equal parts of [0, 1000): less noise in the gradient than
    independent ones. A `power` below 1 chooses late times, where a scene is composed, more often.
    """
    places = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    return (places**power * until * TIMES).long().clamp(0, TIMES - 1)


def train_denoiser(run: Run, processes: ProcessGroup, recipe: Recipe) -> None:
    settings: DenoiserSettings = recipe.denoiser
    torch.manual_seed(recipe.data.seed)
    device = run.device
    raw = np.load(run.work / "latents.npy")
    factor = scaling_factor(raw[: min(len(raw), 4000)])
    latents = torch.from_numpy(raw).to(device)
    records = Pictures(run.work, "scenes").records()[: len(latents)]
    tokenizer = CLIPTokenizer.from_pretrained(run.work / "tokenizer")
    ids = torch.stack([token_ids(tokenizer, list(record.captions), settings.tokens) for record in records])
    ids = ids.to(torch.int16).to(device)
    silence = token_ids(tokenizer, [""], settings.tokens)[0].to(device)

    unet = new_unet(settings).to(device, memory_format=torch.channels_last).train()
    text_encoder = new_text_encoder(settings, tokenizer).to(device).train()
    if run.start:
        start_from(unet, UNet2DConditionModel.from_pretrained(run.start / "unet"))
        text_encoder.load_state_dict(CLIPTextModel.from_pretrained(run.start / "text_encoder").state_dict())
    modules = {"unet": unet, "text_encoder": text_encoder}
    matrices, rest = matrices_and_rest(modules.values(), ("conv_in", "conv_out", "embedding", "time_emb"))
    trainer = Trainer(
        stage="denoiser",
        processes=processes,
        device=device,
        modules=modules,
        optimisers=[
            torch.optim.AdamW(rest, settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2),
            Muon(matrices, settings.matrix_learning_rate, processes),
        ],
        budget=settings.budget,
        checkpoint=run.work / "denoiser.pt",
        ema=settings.ema,
        seed=recipe.data.seed + 1000,
        save_every=recipe.save_every,
    )
    if processes.is_leader:
        sizes = {name: sum(p.numel() for p in module.parameters()) / 1e6 for name, module in modules.items()}
        words = ", ".join(f"{name} {size:.2f} M" for name, size in sizes.items())
        print(f"denoiser: {len(latents)} latents, scaling factor {factor:.4f}, {words}", flush=True)
    kept = new_scheduler().alphas_cumprod.to(device)
    # For 64 tokens the CPU's flash attention is slower backwards than plain matrices: 10 % of a step,
    # measured.
    fast = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    attention = [SDPBackend.MATH] if device == "cpu" else fast

    def loss_of(share: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float], int]:
        halved = share < settings.half_until and not run.start
        cropped = not halved and rng.random() < settings.crop_share
        batch = settings.half_batch if halved or cropped else settings.batch
        chosen = torch.from_numpy(rng.integers(0, len(latents), batch)).to(device)
        clean = latents[chosen].float() * factor
        if halved:
            clean = functional.avg_pool2d(clean, 2)
        if cropped:
            clean = random_crop(clean, rng)
        mirrored = torch.rand(batch, device=device) < MIRROR_CHANCE
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        captions = ids[chosen, torch.randint(0, ids.shape[1], (batch,), device=device)].long()
        silent = torch.rand(batch, device=device) < settings.caption_dropout
        captions = torch.where(silent[:, None], silence[None], captions)
        if cropped:
            times = spread_times(batch, device, until=settings.crop_times)
        else:
            times = spread_times(batch, device, power=settings.time_power)
        at_time, wanted = noised(clean, times, kept)
        at_time = at_time.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(attention):
            said = text_encoder(captions).last_hidden_state
            made = unet(at_time, times, encoder_hidden_states=said).sample.float()
        errors = (made - wanted).square().mean((1, 2, 3))
        # Min-SNR weighting (Hang et al. 2023) for v: min(snr + 1, cap) / (snr + 1), where 1 - alpha = 1
        # / (snr + 1).
        weights = torch.clamp(SNR_CAP * (1 - kept[times]), max=1.0)
        figures = {
            name: float(errors[places].mean().detach())
            for name, places in (("low t", slice(0, batch // 3)), ("high t", slice(-(batch // 3), None)))
        }
        return (errors * weights).mean(), figures, batch

    def review() -> str:
        save_denoiser(run.work, trainer, tokenizer, factor, settings)
        return "saved"

    trainer.run(loss_of, learning_rate, review, review_every=180)


def save_denoiser(
    work: Path, trainer: Trainer, tokenizer: CLIPTokenizer, factor: float, settings: DenoiserSettings
) -> None:
    """The averaged weights, as diffusers and transformers folders under work/denoiser."""
    unet, text_encoder = new_unet(settings), new_text_encoder(settings, tokenizer)
    unet.load_state_dict(trainer.averages["unet"])
    text_encoder.load_state_dict(trainer.averages["text_encoder"])
    unet.save_pretrained(work / "denoiser" / "unet")
    text_encoder.save_pretrained(work / "denoiser" / "text_encoder")
    tokenizer.save_pretrained(work / "denoiser" / "tokenizer")
    facts = {"scaling_factor": factor, "step": trainer.step, "minutes": round(trainer.seconds / 60, 1)}
    (work / "denoiser" / "facts.json").write_text(json.dumps(facts))

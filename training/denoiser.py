"""Training the denoiser: a small UNet and its text encoder on cached latents, predicting v (Salimans
and Ho 2022).
"""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from training.latents import scaling_factor
from training.precision import autocast, fastest
from training.process_group import ProcessGroup
from training.samples import TIMES, Lessons, starting_noise
from training.settings import DenoiserSettings, Recipe, Run
from training.text import new_text_encoder, token_ids
from training.trainer import LossOf, Muon, Trainer, matrices_and_rest

SNR_CAP = 5.0
MIRROR_CHANCE = 0.5


def new_scheduler() -> DDIMScheduler:
    """Zero signal at the last step and trailing steps (Lin et al. 2024, "Common Diffusion Noise Schedules ... Are
    Flawed"): these latents resemble small pictures, whose mean brightness otherwise leaks through the noise, and a
    night could never be painted from scratch. It also makes few steps look good.

    The betas are smaller than SD v1's (0.00085 to 0.012). What takes the last step's signal away takes some of every
    step's: with SD's betas 0.36 of a picture's were left at strength 0.6, where SD v1 itself leaves 0.40. Now it is
    0.47: words are seen as well over it, and layout and things last longer (`README.md` has both).
    """
    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_start=0.0006,
        beta_end=0.006,
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
    first hands down half the sum of four neighbours, in which noise stays as strong as it was. One with narrower levels
    in between is widened.

    Raises RuntimeError where the shapes do not fit.
    """
    if len(finished.config.block_out_channels) == len(unet.config.block_out_channels):
        unet.load_state_dict(widened(finished, unet))
        return
    inner = {
        re.sub(r"^down_blocks\.(\d+)", lambda level: f"down_blocks.{int(level[1]) + 1}", name): value
        for name, value in finished.state_dict().items()
        if not name.startswith("conv_out")
    }
    unknown = unet.load_state_dict(inner, strict=False).unexpected_keys
    if unknown:
        raise RuntimeError(f"The model to start from has other parts: {', '.join(unknown[:3])}")
    (downsampler,) = unet.down_blocks[0].downsamplers
    nn.init.zeros_(downsampler.conv.weight)
    downsampler.conv.weight[:, :, 1:, 1:] = torch.eye(downsampler.channels)[..., None, None] / 2


def widened(narrow: UNet2DConditionModel, wide: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """The weights of `narrow` in the shapes of `wide`, which then computes nearly the same: a channel is copied beside
    itself, and what reads it takes a part of each copy (Chen et al. 2016, "Net2Net"). The parts differ, or the copies
    would learn the same for ever. "Nearly", where a normalisation's groups span two levels that grow unequally.

    Raises RuntimeError where the first or the last level has another width: the time's embedding and the attention's
    heads hang on those.
    """
    before, after = (unet.config.block_out_channels for unet in (narrow, wide))
    if before[0] != after[0] or before[-1] != after[-1]:
        raise RuntimeError(
            f"Of {tuple(before)} channels, {tuple(after)} can't be made: only levels between grow"
        )
    shapes = {name: value.shape for name, value in wide.state_dict().items()}
    inputs_before, inputs_after = joined_inputs(narrow), joined_inputs(wide)
    generator = torch.Generator().manual_seed(0)
    weights = narrow.state_dict()
    if lost := weights.keys() - shapes.keys():
        raise RuntimeError(
            f"Of {tuple(before)} channels, {tuple(after)} can't be made: {min(lost)} would be lost"
        )
    # Where the narrow one has the same width before and after a block, its shortcut is the identity and has no weights.
    for name in sorted(shapes.keys() - weights.keys()):
        width = len(weights[name.replace("conv_shortcut", "conv2")])
        weights[name] = torch.zeros(width) if name.endswith("bias") else torch.eye(width)[..., None, None]
    for name, value in weights.items():
        axis = min(1, value.ndim - 1)
        source = sources(
            inputs_before.get(name, (value.shape[axis],)), inputs_after.get(name, (shapes[name][axis],))
        )
        if value.ndim == 1:
            weights[name] = value[source]
            continue
        value = value[sources((len(value),), shapes[name][:1])][:, source]
        parts = parts_of_copies(source, len(value), generator)
        weights[name] = value * parts.view(*parts.shape, *[1] * (value.ndim - 2))
    return weights


def joined_inputs(unet: UNet2DConditionModel) -> dict[str, tuple[int, int]]:
    """The parameters that read what came up beside what was kept on the way down: how many channels of either."""
    inputs = {}
    widths = list(unet.config.block_out_channels)
    came = widths[-1]
    for block, (width, below) in enumerate(zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)):
        count = len(unet.up_blocks[block].resnets)
        for place in range(count):
            kept = below if place == count - 1 else width
            for reader in ("norm1.weight", "norm1.bias", "conv1.weight", "conv_shortcut.weight"):
                inputs[f"up_blocks.{block}.resnets.{place}.{reader}"] = (came, kept)
            came = width
    return inputs


def sources(before: tuple[int, ...], after: tuple[int, ...]) -> torch.Tensor:
    """For each channel of the wide parts, the one of the narrow parts that it copies."""
    starts = itertools.accumulate(before, initial=0)
    return torch.cat(
        [
            start + torch.arange(wide) * narrow // wide
            for start, narrow, wide in zip(starts, before, after, strict=False)
        ]
    )


def parts_of_copies(source: torch.Tensor, readers: int, generator: torch.Generator) -> torch.Tensor:
    """(readers, channels): how much of each copy is read; the copies of one channel add up to 1."""
    copies = torch.bincount(source)
    uneven = 0.25 * torch.randn(readers, len(source), generator=generator)
    mean = torch.zeros(readers, len(copies)).index_add_(1, source, uneven) / copies
    return 1 / copies[source] + (uneven - mean[:, source])  # exactly 1 where there is one copy


def retime(unet: UNet2DConditionModel, before: torch.Tensor, after: torch.Tensor) -> None:
    """Let the time embedding of a UNet that learned one noise schedule say, at each time of another, what it said where
    there was as much noise. It is fitted (L-BFGS, least squares over all times); nothing else changes.

    `before` and `after` (T,) are cumulative products of alphas, falling to 0 at the last time.
    """
    if torch.equal(before, after):
        return
    signal, wanted = (-torch.logit(kept[:-1].double()).numpy() for kept in (before, after))
    last = len(before) - 1
    same_noise = np.append(np.interp(wanted, signal, np.arange(last)), last)
    embedding = unet.time_embedding
    with torch.no_grad():
        said = embedding(unet.time_proj(torch.from_numpy(same_noise).float()))
    times = unet.time_proj(torch.arange(len(after)).float())
    fit = torch.optim.LBFGS(
        embedding.parameters(), max_iter=1000, history_size=50, line_search_fn="strong_wolfe"
    )

    def miss() -> torch.Tensor:
        fit.zero_grad()
        error = (embedding(times) - said).square().sum(1).mean()
        error.backward()
        return error

    fit.step(miss)
    fit.zero_grad()


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
    latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents at their times and the v to predict there; `kept` is the schedule's cumulative product of alphas."""
    alpha = kept[times].view(-1, 1, 1, 1)
    at_time = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    return at_time, alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def random_crop(latents: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A quarter of each picture, at one random place for the whole batch (Wang et al. 2023, "Patch
    Diffusion").
    """
    side = latents.shape[-1] // 2
    top, left = rng.integers(0, side + 1, 2)
    return latents[..., top : top + side, left : left + side]


def spread(count: int, rng: np.random.Generator) -> np.ndarray:
    """One number from each of `count` equal parts of [0, 1), in any order: less noise than independent ones."""
    return rng.permutation((np.arange(count) + rng.random(count)) / count)


@dataclass(frozen=True)
class Batch:
    """`wanted` and `given` (B, 4, H, W) scaled; `captions` (B, tokens); `times` and `starts` (B,), a start of TIMES is
    a plain sample.
    """

    wanted: torch.Tensor
    given: torch.Tensor
    captions: torch.Tensor
    times: torch.Tensor
    starts: torch.Tensor


class Practice:
    """Makes batches of whole pictures, halved ones, crops and large ones, as the settings have it."""

    def __init__(
        self, lessons: Lessons, settings: DenoiserSettings, silence: torch.Tensor, factor: float, begun: bool
    ) -> None:
        self.lessons, self.settings, self.silence, self.factor = lessons, settings, silence, factor
        self.begun = begun

    def batch(self, share: float, rng: np.random.Generator) -> Batch:
        """For this share of the stage."""
        settings = self.settings
        halved = share < settings.half_until and not self.begun
        large = share >= settings.large_from and rng.random() < settings.large_share
        cropped = not halved and not large and rng.random() < settings.crop_share
        count = (
            settings.half_batch if halved or cropped else settings.large_batch if large else settings.batch
        )
        twins = spread(count, rng) < settings.twins.share
        chosen = [self.lessons.draw(rng, bool(twin), settings.twins) for twin in twins]
        places = torch.tensor([(one.wanted, one.given) for one in chosen])
        pair = self.lessons.latents[places].float().flatten(1, 2) * self.factor
        if halved:
            pair = functional.avg_pool2d(pair, 2)
        if cropped:
            pair = random_crop(pair, rng)
        if large:
            pair = functional.interpolate(pair, scale_factor=2.0, mode="bilinear", align_corners=False)
        mirrored = torch.from_numpy(rng.random(count) < MIRROR_CHANCE)
        pair = torch.where(mirrored[:, None, None, None], pair.flip(3), pair)
        wanted, given = pair.chunk(2, 1)
        captions = self.lessons.ids[places[:, 0], torch.tensor([one.caption for one in chosen])].long()
        silent = torch.from_numpy(rng.random(count) < settings.caption_dropout)
        captions = torch.where(silent[:, None], self.silence[None], captions)
        starts = torch.tensor([TIMES * (1.0 if one.strength is None else one.strength) for one in chosen])
        from_, until = (
            (0.0, settings.crop_times) if cropped else settings.large_times if large else (0.0, 1.0)
        )
        reach = torch.from_numpy(spread(count, rng)).float() ** (1.0 if cropped else settings.time_power)
        # img2img never sees a time later than its start; a start before all of these times makes a plain sample.
        starts = torch.where(starts > from_ * TIMES, starts, torch.full_like(starts, TIMES))
        latest = starts.clamp(max=until * TIMES)
        times = (from_ * TIMES + reach * (latest - from_ * TIMES)).long().clamp(0, TIMES - 1)
        return Batch(wanted, given, captions, times, starts.long())


def train_denoiser(run: Run, processes: ProcessGroup, recipe: Recipe) -> None:
    settings, device = recipe.denoiser, run.device
    torch.manual_seed(recipe.data.seed)
    tokenizer = CLIPTokenizer.from_pretrained(run.work / "tokenizer")
    lessons = Lessons(run.pictures, tokenizer, settings.tokens)
    factor = scaling_of(run, lessons)
    silence = token_ids(tokenizer, [""], settings.tokens)[0]
    practice = Practice(lessons, settings, silence, factor, begun=run.start is not None)
    modules = new_modules(run, settings, tokenizer)
    keep_out = ("conv_in", "conv_out", "embedding", "time_emb")
    matrices, rest = matrices_and_rest(modules.values(), keep_out)
    rate = settings.started_rate if run.start else 1.0
    trainer = Trainer(
        stage="denoiser",
        processes=processes,
        device=device,
        modules=modules,
        optimisers=[
            torch.optim.AdamW(rest, rate * settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2),
            Muon(matrices, rate * settings.matrix_learning_rate, processes, dtype=fastest(device)),
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
        share = f"twins {settings.twins.share:.0%}, {fastest(device)}"
        print(f"denoiser: {len(lessons)} groups, scaling factor {factor:.4f}, {words}, {share}", flush=True)
    loss_of = denoising_loss(practice, modules, device)

    def review() -> str:
        save_denoiser(run.work, trainer, tokenizer, factor, settings)
        return "saved"

    trainer.run(loss_of, learning_rate, review, review_every=180)


def scaling_of(run: Run, lessons: Lessons) -> float:
    """A started model keeps its own, where its VAE is in use; else the latents are measured."""
    if run.start:
        old, new = (
            json.loads((folder / "vae" / "config.json").read_text()) for folder in (run.start, run.work)
        )
        if old["block_out_channels"] == new["block_out_channels"]:
            return float(old["scaling_factor"])
    return scaling_factor(lessons.latents.numpy())


def new_modules(run: Run, settings: DenoiserSettings, tokenizer: CLIPTokenizer) -> dict[str, nn.Module]:
    unet, text_encoder = new_unet(settings), new_text_encoder(settings, tokenizer)
    if run.start:
        start_from(unet, UNet2DConditionModel.from_pretrained(run.start / "unet"))
        theirs = DDIMScheduler.from_pretrained(run.start / "scheduler")
        retime(unet, theirs.alphas_cumprod, new_scheduler().alphas_cumprod)
        text_encoder.load_state_dict(CLIPTextModel.from_pretrained(run.start / "text_encoder").state_dict())
    return {
        "unet": unet.to(run.device, memory_format=torch.channels_last).train(),
        "text_encoder": text_encoder.to(run.device).train(),
    }


def denoising_loss(practice: Practice, modules: dict[str, nn.Module], device: str) -> LossOf:
    kept = new_scheduler().alphas_cumprod.to(device)
    # For 64 tokens the CPU's flash attention is slower backwards than plain matrices: 10 % of a step, measured.
    fast = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    attention = [SDPBackend.MATH] if device == "cpu" else fast

    def loss_of(share: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float], int]:
        batch = practice.batch(share, rng)
        wanted, given, captions, times, starts = (
            tensor.to(device)
            for tensor in (batch.wanted, batch.given, batch.captions, batch.times, batch.starts)
        )
        twin = starts < TIMES
        start = torch.where(twin, kept[starts.clamp(max=TIMES - 1)], torch.zeros_like(kept[times]))
        noise = starting_noise(torch.randn_like(wanted), given, wanted, start)
        at_time, target = noised(wanted, noise, times, kept)
        at_time = at_time.contiguous(memory_format=torch.channels_last)
        with autocast(device), sdpa_kernel(attention):
            said = modules["text_encoder"](captions).last_hidden_state
            made = modules["unet"](at_time, times, encoder_hidden_states=said).sample.float()
        errors = (made - target).square().mean((1, 2, 3))
        # Min-SNR weighting (Hang et al. 2023) for v: min(snr + 1, cap) / (snr + 1), where 1 - alpha = 1 / (snr + 1).
        weights = torch.clamp(SNR_CAP * (1 - kept[times]), max=1.0)
        figures = {
            name: float(errors[where].mean().detach()) if where.any() else 0.0
            for name, where in (("twins", twin), ("plain", ~twin))
        }
        return (errors * weights).mean(), figures, len(times)

    return loss_of


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

"""Training the VAE on crops: mostly painted scenes, the rest generic pictures and a few photographs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from training.autoencoder import new_autoencoder
from training.data import Pictures
from training.measures import psnr
from training.photos import missing_photos, test_photos, training_photos
from training.precision import autocast, fastest
from training.process_group import ProcessGroup
from training.settings import Recipe, Run, VaeSettings
from training.text import token_ids
from training.trainer import Muon, Trainer, matrices_and_rest


def to_tensor(pictures: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2)
    return (tensor.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_pixels(tensor: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    scaled = (tensor.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Crops:
    """Cuts training crops out of three sources."""

    settings: VaeSettings
    scenes: Pictures
    generic: Pictures
    photos: list[np.ndarray]

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size, size, 3) uint8, mirrored by chance; some with their colours exchanged."""
        roll = rng.random()
        if roll < self.settings.photo_share:
            crop = self.of_photo(rng, size)
        else:
            generic = roll > self.settings.photo_share + self.settings.scene_share
            source = self.generic if generic else self.scenes
            crop = cut(rng, source[int(rng.integers(len(source)))], size)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return crop[..., rng.permutation(3)] if rng.random() < 0.08 else crop

    def of_photo(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Photographs are few: they also come reduced, turned and brightened."""
        photo = self.photos[rng.integers(len(self.photos))]
        largest = min(photo.shape[:2])
        side = int(min(largest, size * rng.uniform(1, 3)))
        crop = Image.fromarray(cut(rng, photo, side)).resize((size, size), Image.Resampling.BOX)
        pixels = np.rot90(np.asarray(crop), int(rng.integers(4))).astype(np.float32)
        pixels = (pixels - 128) * rng.uniform(0.8, 1.2) + 128 + rng.normal(0, 12, 3)
        return np.clip(pixels, 0, 255).astype(np.uint8)


def cut(rng: np.random.Generator, picture: np.ndarray, size: int) -> np.ndarray:
    top, left = (int(rng.integers(0, side - size + 1)) for side in picture.shape[:2])
    return picture[top : top + size, left : left + size]


def structure_loss(made: torch.Tensor, wanted: torch.Tensor, window: int = 7) -> torch.Tensor:
    """1 - SSIM (Wang et al. 2004) on box windows, constants for values in [-1, 1]."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(values, window, 2)

    made_mean, wanted_mean = mean(made), mean(wanted)
    made_variance = mean(made * made) - made_mean**2
    wanted_variance = mean(wanted * wanted) - wanted_mean**2
    covariance = mean(made * wanted) - made_mean * wanted_mean
    luminance = (2 * made_mean * wanted_mean + 4e-4) / (made_mean**2 + wanted_mean**2 + 4e-4)
    structure = (2 * covariance + 3.6e-3) / (made_variance + wanted_variance + 3.6e-3)
    return 1 - (luminance * structure).mean()


def edge_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the differences between neighbours."""
    error = made - wanted
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def picture_loss(made: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """How unlike two batches of pictures in [-1, 1] are, and figures to print."""
    absolute, squared = (made - wanted).abs().mean(), functional.mse_loss(made, wanted)
    structure, edges = structure_loss(made, wanted), edge_loss(made, wanted)
    loss = absolute + 10 * squared + 0.2 * structure + 0.3 * edges
    decibels = -10 * np.log10(squared.item() / 4 + 1e-9)
    return loss, {"l1": absolute.item(), "ssim": 1 - structure.item(), "dB": decibels}


def learning_rate(share: float) -> float:
    """A short warm-up, then a cosine down to 2 %."""
    return min(1.0, 0.05 + share / 0.01) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * share)))


def stage_of(crops: tuple[tuple[float, int, int], ...], share: float) -> tuple[int, int]:
    """Crop size and batch at this share of the stage."""
    return next((size, batch) for begins, size, batch in reversed(crops) if share >= begins)


def reconstruct(vae: AutoencoderKL, pictures: np.ndarray, device: str) -> np.ndarray:
    """The round trip through the distribution's mean, (B, H, W, 3) uint8, a few pictures at a time."""
    made = []
    with torch.inference_mode(), autocast(device):
        for start in range(0, len(pictures), 8):
            image = to_tensor(pictures[start : start + 8], device)
            made.append(to_pixels(vae.decode(vae.encode(image).latent_dist.mode()).sample))
    return np.concatenate(made)


def train_vae(run: Run, processes: ProcessGroup, recipe: Recipe, decoder_only: bool = False) -> None:
    """Train, or with `decoder_only` refine the decoder of a finished VAE whose latents must stay as
    they are.
    """
    settings = recipe.vae
    torch.manual_seed(recipe.data.seed)
    vae = new_autoencoder(settings)
    if decoder_only:
        vae = AutoencoderKL.from_pretrained(run.work / "vae")
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    elif run.start:
        vae.load_state_dict(AutoencoderKL.from_pretrained(run.start / "vae").state_dict())
    vae = vae.to(run.device, memory_format=torch.channels_last).train()
    crops = Crops(
        settings, Pictures(run.pictures, "scenes"), Pictures(run.pictures, "generic"), training_photos()
    )
    if processes.is_leader and (missing := missing_photos()):
        print(f"vae: training without the photographs {', '.join(missing)}", flush=True)
    keep_out = ("conv_in", "conv_out", "quant_conv")
    matrices, rest = matrices_and_rest([vae], keep_out)
    trainer = Trainer(
        stage="decoder" if decoder_only else "vae",
        processes=processes,
        device=run.device,
        modules={"vae": vae},
        optimisers=[
            torch.optim.AdamW(rest, settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4),
            Muon(matrices, settings.matrix_learning_rate, processes, decay=1e-3, dtype=fastest(run.device)),
        ],
        budget=settings.decoder_budget if decoder_only else settings.budget,
        checkpoint=run.work / ("decoder.pt" if decoder_only else "vae.pt"),
        ema=settings.ema,
        seed=recipe.data.seed + (100 if decoder_only else 0),
        save_every=recipe.save_every,
    )
    heldout = Pictures(run.pictures, "heldout")
    scenes = np.stack([heldout[i] for i in range(min(32, len(heldout)))])
    photos = test_photos()
    average = AutoencoderKL.from_config(vae.config).to(run.device, memory_format=torch.channels_last).eval()
    if not decoder_only:
        average.register_to_config(scaling_factor=1.0)

    leave = leavings(run, settings) if decoder_only and settings.denoised_share else None

    def loss_of(share: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float], int]:
        size, batch = stage_of(settings.crops, share)
        image = to_tensor(np.stack([crops.draw(rng, size) for _ in range(batch)]), run.device)
        with autocast(run.device):
            with torch.set_grad_enabled(not decoder_only):
                posterior = vae.encode(image).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            if leave and rng.random() < settings.denoised_share:
                latents, wanted = leave(mean, rng), image
            else:
                latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
                latents, wanted = disturb(rng, latents, image)
            made = vae.decode(latents).sample.float()
        loss, figures = picture_loss(made, wanted)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        loss, figures["kl"] = loss + settings.kl * divergence, divergence.item()
        return loss, figures, batch

    def review() -> str:
        average.load_state_dict(trainer.averages["vae"])
        average.save_pretrained(run.work / "vae")
        shown = reconstruct(average, np.stack(list(photos.values())), run.device)
        scenes_made = reconstruct(average, scenes, run.device)
        save_pairs(run.work / f"{trainer.stage}-scenes.png", scenes[:6], scenes_made[:6])
        save_pairs(run.work / f"{trainer.stage}-photos.png", np.stack(list(photos.values())), shown)
        each = psnr(shown, np.stack(list(photos.values())))
        words = ", ".join(f"{name} {value:.2f}" for name, value in zip(photos, each, strict=True))
        return f"scenes {psnr(scenes_made, scenes).mean():.2f} dB, {words} dB"

    trainer.run(loss_of, learning_rate, review)


def leavings(run: Run, settings: VaeSettings) -> Callable[[torch.Tensor, np.random.Generator], torch.Tensor]:
    """What the trained denoiser, told nothing, leaves of latents that were noised to one of `denoised_times`: so the
    decoder learns to make a clean picture of its faults.
    """
    from training.denoiser import new_scheduler

    folder = run.work / "denoiser"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").to(run.device).eval()
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    silence = token_ids(tokenizer, [""], tokenizer.model_max_length)
    with torch.inference_mode():
        said = text_encoder(silence).last_hidden_state.to(run.device)
    factor = json.loads((folder / "facts.json").read_text())["scaling_factor"]
    kept = new_scheduler().alphas_cumprod.to(run.device)

    @torch.no_grad()
    def leave(latents: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        times = np.linspace(rng.uniform(*settings.denoised_times), 0, settings.denoised_steps + 1).astype(int)
        alpha = kept[times[0]]
        at_time = alpha.sqrt() * latents * factor + (1 - alpha).sqrt() * torch.randn_like(latents)
        words = said.expand(len(latents), -1, -1).clone()
        for time, following in pairwise(times):
            alpha = kept[time]
            v = unet(at_time, int(time), encoder_hidden_states=words).sample.float()
            clean = alpha.sqrt() * at_time - (1 - alpha).sqrt() * v
            noise = alpha.sqrt() * v + (1 - alpha).sqrt() * at_time
            after = kept[following] if following > 0 else torch.ones_like(alpha)
            at_time = after.sqrt() * clean + (1 - after).sqrt() * noise
        return at_time / factor

    return leave


def disturb(
    rng: np.random.Generator, latents: torch.Tensor, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sometimes mirror or halve latents and target alike: latents that behave like pictures denoise
    more easily, and halved ones are what the denoiser begins on.
    """
    roll = rng.random()
    if roll < 0.12:
        return latents.flip(3), image.flip(3)
    if roll < 0.24 and image.shape[-1] > 64:
        return functional.avg_pool2d(latents, 2), functional.avg_pool2d(image, 2)
    return latents, image


def save_pairs(path: Path, wanted: np.ndarray, made: np.ndarray) -> None:
    """Originals above, round trips below."""
    Image.fromarray(np.concatenate([np.concatenate(list(wanted), 1), np.concatenate(list(made), 1)])).save(
        path
    )

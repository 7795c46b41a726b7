"""The pictures as latents, encoded once, a file for each shard: what the denoiser trains on."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.data import shard_paths
from training.precision import autocast
from training.process_group import ProcessGroup
from training.progress import Progress
from training.settings import Run
from training.vae import to_tensor

BATCH = 4
SPLITS = ("scenes", "generic")


def latents_path(folder: Path, split: str, index: int) -> Path:
    return folder / "latents" / split / f"{index:05}.npy"


def shards_of(folder: Path, split: str) -> list[int]:
    """The painted shards' numbers."""
    return sorted(int(path.stem) for path in (folder / split).glob("*.npy"))


def encode_shards(run: Run, processes: ProcessGroup) -> None:
    """Write this process's share of the shards that have no latents yet, each (N, 4, 64, 64) float16, unscaled."""
    missing = [
        (split, index)
        for split in SPLITS
        for index in shards_of(run.pictures, split)
        if not latents_path(run.pictures, split, index).exists()
    ][processes.rank :: processes.size]
    if not missing:
        return
    vae = AutoencoderKL.from_pretrained(run.work / "vae")
    vae = vae.to(run.device, memory_format=torch.channels_last).eval()
    progress = Progress("latents", silent=not processes.is_leader)
    for done, (split, index) in enumerate(missing):
        pictures = np.load(shard_paths(run.pictures, split, index)[0], mmap_mode="r")
        encoded = []
        for start in range(0, len(pictures), BATCH):
            with torch.inference_mode(), autocast(run.device):
                image = to_tensor(pictures[start : start + BATCH], run.device)
                encoded.append(vae.encode(image).latent_dist.mode().half().cpu().numpy())
            progress.show((done + (start + 1) / len(pictures)) / len(missing))
        path = latents_path(run.pictures, split, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.save(stream, np.concatenate(encoded))
        partial.rename(path)


def are_encoded(folder: Path) -> bool:
    """Whether any latents exist: then the VAE's encoder is settled."""
    return any((folder / "latents").glob("*/*.npy"))


def scaling_factor(latents: np.ndarray) -> float:
    """What brings the latents to unit standard deviation."""
    return float(1 / latents.astype(np.float32).std())

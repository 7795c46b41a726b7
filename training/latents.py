"""The scenes as latents, encoded once: what the denoiser trains on."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.data import Pictures
from training.process_group import ProcessGroup
from training.progress import Progress
from training.settings import Run
from training.vae import to_tensor

BATCH = 4


def part_path(folder: Path, rank: int) -> Path:
    return folder / f"latents-{rank}.npy"


def encode_scenes(run: Run, processes: ProcessGroup, count: int) -> None:
    """Write this process's share of the first `count` scenes as (N, 4, 64, 64) float16, unscaled; every
    size-th batch is its own.
    """
    vae = AutoencoderKL.from_pretrained(run.work / "vae")
    vae = vae.to(run.device, memory_format=torch.channels_last).eval()
    scenes = Pictures(run.work, "scenes")
    count = min(count, len(scenes))
    batches = range(processes.rank * BATCH, count, BATCH * processes.size)
    progress, encoded = Progress("latents", silent=not processes.is_leader), []
    for done, start in enumerate(batches):
        pictures = np.stack([scenes[i] for i in range(start, min(start + BATCH, count))])
        with torch.inference_mode(), torch.autocast(run.device, torch.bfloat16):
            mean = vae.encode(to_tensor(pictures, run.device)).latent_dist.mode()
        encoded.append(mean.half().cpu().numpy())
        progress.show((done + 1) / len(batches))
    path = part_path(run.work, processes.rank)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, np.concatenate(encoded))
    partial.rename(path)


def parts(folder: Path, workers: int) -> list[Path]:
    return [part_path(folder, rank) for rank in range(workers)]


def join_parts(folder: Path, workers: int) -> None:
    """Interleave the processes' shares into latents.npy, in the order of the scenes."""
    shares = [np.load(path) for path in parts(folder, workers)]
    total = sum(len(share) for share in shares)
    joined = np.empty((total, *shares[0].shape[1:]), np.float16)
    for rank, share in enumerate(shares):
        numbers = np.arange(total)
        joined[numbers[(numbers // BATCH) % workers == rank]] = share
    np.save(folder / "latents.npy", joined)
    for path in parts(folder, workers):
        path.unlink()


def scaling_factor(latents: np.ndarray) -> float:
    """What brings the latents to unit standard deviation."""
    return float(1 / latents.astype(np.float32).std())

"""The rough look at latents that the page shows between steps: `python -m training.preview` fits it to a model.

A linear map of scaled latents to colours, by least squares, as `ModelSpec.preview` wants it: a row for each channel,
the last is the bias.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.data import heldout_paintings
from training.vae import to_tensor


def fit(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[np.ndarray, float]:
    """(channels + 1, 3) float64 and the share of the colours' variance it explains (R²), over the mean colours of
    each latent's 8 x 8 pixels in (B, H, W, 3) uint8.
    """
    with torch.inference_mode():
        latents = torch.cat([vae.encode(to_tensor(one[None])).latent_dist.mode() for one in pictures])
    values = (latents * vae.config.scaling_factor).permute(0, 2, 3, 1).double().numpy()
    known = np.concatenate([values.reshape(-1, values.shape[-1]), np.ones((values[..., 0].size, 1))], 1)
    batch, height, width = values.shape[:3]
    blocks = pictures.reshape(
        batch, height, pictures.shape[1] // height, width, pictures.shape[2] // width, 3
    )
    wanted = (blocks.mean((2, 4)) / 127.5 - 1).reshape(-1, 3)
    found = np.linalg.lstsq(known, wanted, rcond=None)[0]
    left = ((known @ found - wanted) ** 2).sum()
    return found, float(1 - left / ((wanted - wanted.mean(0)) ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.preview", description=__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        default=Path(__file__).parents[1] / "backend" / "builtin",
        help="an exported model",
    )
    parser.add_argument("--pictures", type=int, default=64, help="how many held-out scenes to fit to")
    flags = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(flags.model / "vae").float().eval()
    rows, explained = fit(vae, heldout_paintings(flags.pictures))
    print(f"scaling_factor={vae.config.scaling_factor}  R² = {explained:.3f}")
    for row in rows:
        print("(" + ", ".join(f"{value:.4f}" for value in row) + "),")


if __name__ == "__main__":
    main()

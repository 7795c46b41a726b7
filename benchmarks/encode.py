"""Bulk encode against a plain diffusers loop: pictures a second, in pairs on the same pictures.

    python -m benchmarks.encode [--pictures 48] [--runs 3] [--model builtin] [--no-save]

The plain loop opens, resizes and encodes one picture after the other and keeps the latents in memory; ours does the
same work, reads ahead meanwhile, in batches where that pays, and also writes the shards.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import machine, publish


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3, help="pairs (default 3), after one to warm up")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--batch", type=int, help="default: what suits the device")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = paint(Path(folder) / "pictures", options.pictures)
        for run in range(options.runs + 1):
            pair = (
                bulk(pictures, Path(folder) / f"out{run}", options.model, options.batch),
                loop(pictures, options.model),
            )
            if run:
                ours.append(pair[0])
                plain.append(pair[1])
    result: dict[str, Any] = {
        "machine": machine(),
        "model": options.model,
        "pictures": options.pictures,
        "batch": options.batch or "default",
        "pictures_per_second": options.pictures / statistics.median(ours),
        "pictures_per_second_plain_diffusers": options.pictures / statistics.median(plain),
        "speed_over_plain": statistics.median(b / a for a, b in zip(ours, plain, strict=True)),
    }
    publish("encode", result, save=not options.no_save)


def paint(folder: Path, count: int) -> Path:
    """Smooth random pictures of three shapes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(count):
        shape = [(320, 320), (400, 260), (260, 400)][index % 3]
        colours = draw.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(colours).resize(shape, Image.Resampling.BICUBIC).save(folder / f"{index:04d}.png")
    return folder


_KEPT: dict[str, Any] = {}


def bulk(pictures: Path, out: Path, model: str, batch: int | None) -> float:
    from backend.encode import BulkEncoder
    from backend.job import VaeOptions
    from backend.models import find_model
    from backend.settings import Settings
    from backend.studio import Studio

    studio = _KEPT.setdefault("studio", Studio(Settings()))
    encoder = BulkEncoder(studio, find_model(model), VaeOptions("whole"), batch=batch)
    begin = time.perf_counter()
    encoder.run(pictures, out)
    return time.perf_counter() - begin


def loop(pictures: Path, model: str) -> float:
    import torch

    from backend import images
    from backend.encode import find_pictures
    from backend.models import find_model
    from backend.shards import bucket

    spec = find_model(model)
    vae = _KEPT["studio"].loader.vae(spec)
    weight = next(vae.parameters())
    latents = []

    def plain() -> None:
        for name in find_pictures(pictures):
            with Image.open(pictures / name) as picture:
                rgb = picture.convert("RGB")
            size = bucket(rgb.size, spec.native_size, spec.size_multiple)
            tensor = images.to_tensor(images.resize(rgb, *size)).to(weight.device, weight.dtype)
            with torch.no_grad():
                latents.append((vae.encode(tensor).latent_dist.mode() * vae.config.scaling_factor).cpu())

    begin = time.perf_counter()
    # On the thread that ours computes on: a second team of OpenMP helpers would slow down both.
    _KEPT["studio"].loader.queue.run(plain)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

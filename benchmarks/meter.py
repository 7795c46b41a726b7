"""What the memory meter costs: the same stage with it and without it, in pairs, and how well its figure repeats.

    python -m benchmarks.meter [--seconds 8] [--no-save]

For a processor; on a card the peak is a counter that runs anyway.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.common import machine, publish

MODES = ("whole", "streamed", "tiled")
LEAST_PAIRS = 5
BOUND = 0.02
"""Of a stage's time: the most that the meter may cost."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8, help="for each stage (default 8)")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    rows = []
    for name, work in (*denoisings(), *vae_stages()):
        rows.append(pairs(name, work, options.seconds))
        row = rows[-1]
        cost, error, seconds = row["cost_percent"], row["standard_error_percent"], row["thread_seconds"]
        print(f"{name}: {cost:+.2f} ± {error:.2f} % of {seconds:.3f} s", flush=True)
    result = {
        "machine": machine(),
        "stages": rows,
        "within_bound": sum(row["cost_percent"] <= 100 * BOUND for row in rows),
        "median_cost_percent": statistics.median(row["cost_percent"] for row in rows),
    }
    publish("meter", result, save=not options.no_save)


def pairs(name: str, work: Callable[[Any], object], budget: float) -> dict[str, Any]:
    """`work(meter)` with the memory counted and without, each first in every other pair, for `budget` seconds.

    Compared by the measuring thread's own CPU time within each pair, since a processor's speed drifts: the median of
    all pairs, with its standard error.
    """
    import torch

    from backend.device.measure import Meter

    seconds: dict[bool, list[float]] = {True: [], False: []}
    peaks = []

    def run(count_memory: bool) -> None:
        begin = time.thread_time()
        # Of a device that it knows nothing about it measures only the seconds.
        with Meter(torch.device("cpu" if count_memory else "meta")) as meter:
            work(meter)
        seconds[count_memory].append(time.thread_time() - begin)
        if count_memory:
            peaks.append(meter.cost.peak_bytes)

    run(True)
    seconds[True].clear()
    peaks.clear()
    end, first = time.perf_counter() + budget, True
    while time.perf_counter() < end or len(peaks) < LEAST_PAIRS:
        run(first)
        run(not first)
        first = not first
    costs = [
        100 * (counted / plain - 1) for counted, plain in zip(seconds[True], seconds[False], strict=True)
    ]
    return {
        "stage": name,
        "pairs": len(costs),
        "thread_seconds": round(statistics.median(seconds[False]), 4),
        "cost_percent": round(statistics.median(costs), 2),
        "standard_error_percent": round(statistics.stdev(costs) / len(costs) ** 0.5, 2),
        "peak_bytes": statistics.median(peaks),
        "peak_spread_percent": 100 * (max(peaks) / min(peaks) - 1),
    }


def vae_stages() -> Iterator[tuple[str, Callable[[Any], object]]]:
    """(name, work) for the built-in VAE and one of SD v1's shape with random weights."""
    import torch

    from backend.models import BUILTIN, SD_V1
    from backend.vae.architecture import random_vae
    from backend.vae.modes import ModeOptions, local_vae

    for spec, side, tile in ((BUILTIN, 256, 128), (SD_V1, 128, 64)):
        module = random_vae(spec, torch.float32, torch.device("cpu"))
        image = torch.rand(1, 3, side, side) * 2 - 1
        latents = torch.randn(1, spec.latents.channels, *(side // spec.latents.downscale,) * 2)
        for mode in MODES:
            vae = local_vae(mode, module, spec.latents, ModeOptions(tile, tile // 4))
            yield f"{spec.name} {side} {mode} encode", lambda _, v=vae, x=image: v.encode(x)
            yield f"{spec.name} {side} {mode} decode", lambda _, v=vae, x=latents: v.decode(x)


def denoisings() -> Iterator[tuple[str, Callable[[Any], object]]]:
    """(name, work) for the built-in denoiser with the default steps."""
    import torch
    from PIL import Image

    from backend.job import Job
    from backend.run.context import ignore
    from backend.run.denoise import _run_pipeline
    from backend.settings import Settings
    from backend.studio import Studio

    studio = Studio(Settings(device="cpu"))
    job = studio.resolve(Job(Image.new("RGB", (256, 256)), "a lake", seed=1, width=256, height=256))
    pipeline = studio.loader.denoiser(job.spec)
    latents = torch.randn(1, 4, 64, 64)

    def work(meter: Any) -> None:
        meter.begin_steps()
        _run_pipeline(pipeline, job, latents, torch.device("cpu"), threading.Event(), ignore, meter)

    yield f"builtin 256 denoise, {job.steps_to_run} steps", work


if __name__ == "__main__":
    main()

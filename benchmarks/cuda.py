"""Real-size architectures with random weights on a CUDA card: VAE by size and mode, and img2img of SD v1.5 and SDXL.

    python -m benchmarks.cuda [--sizes 256 512 1024 2048] [--runs 5] [--no-save] [--traces FOLDER]

Random weights do the same work and take the same memory as trained ones; nothing is downloaded. Each VAE cell also has
the forecast of its memory and the kernels that really started, to be held against `benchmarks.launches`. The whole mode
and the denoiser are timed in pairs with channels_last, the denoiser also with torch.compile: neither is switched on in
the app as long as no such pair has shown that it pays. `--traces` keeps a timeline of each cell for a trace viewer
(Perfetto, chrome://tracing): gaps between kernels show where the card waits for Python.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import machine, publish

MODES = ("whole", "streamed", "tiled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each (default 5)")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    parser.add_argument("--traces", type=Path, help="also keep a timeline of each VAE cell in this folder")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.exit(1, "This benchmark needs a CUDA card, and there is none here.\n")
    device = torch.device("cuda", 0)
    result = {
        "machine": machine(),
        "cuda": torch.version.cuda,
        "weights": "random",
        "vae": list(vae_cells(device, options.sizes, options.runs, options.traces)),
        "channels_last": list(channels_last_pairs(device, options.runs)),
        "denoiser": list(denoiser_steps(device, options.runs)),
        "denoiser_variants": list(denoiser_variants(device, options.runs)),
    }
    publish("cuda", result, save=not options.no_save)


def vae_cells(
    device: Any, sizes: list[int], runs: int, traces: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Both directions of the SD v1 and SDXL VAE at each size in each mode: median seconds, peak, forecast."""
    import torch

    from backend.device.measure import DeviceState, device_name, empty_device_cache, free_bytes
    from backend.errors import OutOfMemoryError
    from backend.job import VaeOptions
    from backend.models import SD_V1, SDXL
    from backend.placement.learned import peak_bytes
    from backend.request import StageRequest
    from backend.vae.architecture import random_vae
    from backend.vae.modes import ModeOptions, local_vae

    state = DeviceState("cuda", str(device_name(device)), "float16", free_bytes(device))
    for spec in (SD_V1, SDXL):
        module = random_vae(spec, torch.float16, device)
        for size in sizes:
            image = torch.rand(1, 3, size, size, device=device, dtype=torch.float16) * 2 - 1
            latents = torch.randn(1, 4, size // 8, size // 8, device=device, dtype=torch.float16)
            for mode in MODES:
                vae = local_vae(mode, module, spec.latents, ModeOptions(512, 128))
                work: dict[str, Callable[[], object]] = {
                    "encode": lambda vae=vae, image=image: vae.encode(image),
                    "decode": lambda vae=vae, latents=latents: vae.decode(latents),
                }
                for direction, run in work.items():
                    request = StageRequest(direction, spec, size, size, VaeOptions(mode))  # type: ignore[arg-type]
                    cell = {"model": spec.name, "stage": direction, "size": size, "mode": mode}
                    trace = traces and traces / f"{spec.name}-{direction}-{size}-{mode}.json"
                    try:
                        cell |= measured(run, device, runs) | {"kernels": kernels(run, trace)}
                    except OutOfMemoryError:
                        empty_device_cache(device)
                        cell["error"] = "OOM"
                    yield cell | {"forecast_bytes": peak_bytes(request, mode, state)}


def channels_last_pairs(device: Any, runs: int) -> Iterator[dict[str, Any]]:
    """Seconds of whole decodes at 1024 with channels_last, as a ratio to those without, in pairs."""
    import torch

    from backend.models import SD_V1, SDXL
    from backend.vae.architecture import random_vae
    from backend.vae.whole import Whole

    for spec in (SD_V1, SDXL):
        plain = Whole(random_vae(spec, torch.float16, device), spec.latents)
        last = Whole(
            random_vae(spec, torch.float16, device).to(memory_format=torch.channels_last), spec.latents
        )
        latents = torch.randn(1, 4, 128, 128, device=device, dtype=torch.float16)
        ratios = []
        for index in range(runs + 1):
            pair = [
                seconds(lambda vae=vae, latents=latents: vae.decode(latents), device) for vae in (plain, last)
            ]  # type: ignore[misc]
            if index:  # the first is the warm-up
                ratios.append(pair[1] / pair[0])
        yield {"model": spec.name, "size": 1024, "stage": "decode", "ratio": statistics.median(ratios)}


def denoiser_steps(device: Any, runs: int) -> Iterator[dict[str, Any]]:
    """One guided step (two passes at once) of the full SD v1.5 and SDXL networks at their native size."""
    import torch

    for name, size, unet, arguments in denoisers(device):
        yield {"model": name, "size": size} | measured(step_of(unet, arguments), device, runs)
        del unet, arguments
        torch.cuda.empty_cache()


def denoiser_variants(device: Any, runs: int) -> Iterator[dict[str, Any]]:
    """Seconds of such a step with channels_last, compiled, and both, as ratios to one without, in pairs."""
    import torch

    for name, size, unet, arguments in denoisers(device):
        plain, begin = step_of(unet, arguments), {"model": name, "size": size}
        for compiled in (False, True):
            for memory_format in ("contiguous_format", "channels_last"):
                if not compiled and memory_format == "contiguous_format":
                    continue
                other: Any = copy.deepcopy(unet).to(memory_format=getattr(torch, memory_format))
                step = step_of(torch.compile(other) if compiled else other, arguments)
                row = begin | {"compiled": compiled, "memory_format": memory_format}
                try:
                    first = seconds(step, device)
                    step()
                    pairs = [(seconds(plain, device), seconds(step, device)) for _ in range(runs + 1)][1:]
                except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and the next variant may not
                    yield row | {"error": f"{type(error).__name__}: {error}"[:200]}
                else:
                    ratio = statistics.median(with_it / without for without, with_it in pairs)
                    yield row | {"ratio": ratio, "seconds_first": first}
                del other, step
        del unet, arguments, plain
        torch.cuda.empty_cache()


def step_of(unet: Any, arguments: dict[str, Any]) -> Callable[[], None]:
    import torch

    def step() -> None:
        with torch.inference_mode():
            unet(**arguments)

    return step


def denoisers(device: Any) -> Iterator[tuple[str, int, Any, dict[str, Any]]]:
    """(model, size, network with random weights, arguments of a guided step), one after the other."""
    import torch
    from diffusers import UNet2DConditionModel

    shapes: dict[str, tuple[int, dict[str, Any]]] = {
        "sd-v1": (64, {"cross_attention_dim": 768}),
        "sdxl": (
            128,
            {
                "cross_attention_dim": 2048,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
    }
    for name, (side, config) in shapes.items():
        with torch.device(device):
            unet = UNet2DConditionModel(sample_size=side, **config).half().eval()
            sample = torch.randn(2, 4, side, side).half()
            text = torch.randn(2, 77, config["cross_attention_dim"]).half()
            extra = {"text_embeds": torch.randn(2, 1280).half(), "time_ids": torch.zeros(2, 6).half()}
        arguments: dict[str, Any] = {"sample": sample, "timestep": 500, "encoder_hidden_states": text}
        if name == "sdxl":
            arguments["added_cond_kwargs"] = extra
        yield name, side * 8, unet, arguments
        del unet


def measured(work: Callable[[], object], device: Any, runs: int) -> dict[str, Any]:
    """Median seconds and highest peak after one warm-up."""
    from backend.device.measure import Meter

    work()
    costs = []
    for _ in range(runs):
        with Meter(device) as meter:
            work()
        costs.append(meter.cost)
    return {
        "seconds": statistics.median(cost.seconds for cost in costs),
        "added_bytes": max(cost.added_bytes or 0 for cost in costs) or None,
        "peak_bytes": max(cost.peak_bytes or 0 for cost in costs) or None,
    }


def kernels(work: Callable[[], object], trace: Path | None = None) -> int:
    """How many kernels, copies and fills start on the card, by torch's profiler; its timeline goes to `trace`."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    # What Python does makes each launch slower, so it is recorded for a timeline only.
    seen = [ProfilerActivity.CUDA, *([ProfilerActivity.CPU] if trace else [])]
    with profile(activities=seen) as profiler:
        work()
    if trace:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events() or ())


def seconds(work: Callable[[], object], device: Any) -> float:
    from backend.device.measure import synchronise

    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

"""The streamed VAE against diffusers untiled and tiled: time, memory and distance, from one paired run.

    python -m benchmarks.streamed             SD v1, 512 and 1024 pixels, float32 and bfloat16 on a CPU
    python -m benchmarks.streamed --quick     256 pixels, float32, one run: a minute
    python -m benchmarks.streamed --models sd-v1 sdxl flux --sizes 1024 2048 4096 --dtypes float16    on a GPU
    python -m benchmarks.streamed --lean --sizes 2048 --dtypes bfloat16    one run of each, its time alone

Variants alternate (A B C A B C ...), so that a neighbour's load hits all alike; after one round of warm-up, which
also measures memory, the median counts. Ratios are to diffusers untiled in the same format. On a CPU the processor
time of the process stands beside the time on the clock: on a shared machine it is the steadier one.

`allocated` is the highest sum of torch allocations during the call, input and weights left out, by torch's profiler
(CPU) or allocator (CUDA). `rss` is the maximum that the process grew by (Linux), library workspace and the heap's holes
included. Weights are random with variances that keep signals alive; they exaggerate tiling's error. PSNR takes the
range of the float32 reference as its peak.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import itertools
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.device.allocations import measure_allocations
from backend.device.precision import dtype_name
from backend.models import FLUX_LATENTS, SD_V1_LATENTS, SDXL_LATENTS, LatentSpec
from backend.vae.base import LocalVAE
from backend.vae.streamed import Streamed
from backend.vae.tiled import Tiled
from backend.vae.whole import Whole
from benchmarks.common import RESULTS, machine, publish

Run = Callable[[], Tensor]

SD_SHAPE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
# SDXL's VAE has SD v1's layers; it differs in weights, scaling and the size its tiling starts from.
MODELS: dict[str, tuple[dict[str, Any], LatentSpec, int]] = {
    "sd-v1": ({}, SD_V1_LATENTS, 512),
    "sdxl": ({}, SDXL_LATENTS, 1024),
    "flux": (
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
        FLUX_LATENTS,
        1024,
    ),
}
LEAN_WARM_UP = 256
"""Pixels a side."""
OPTIONS: dict[str, dict[str, Any]] = {
    "streamed": {},
    "streamed, maps kept": {"recompute": False},
    "streamed, maps recomputed": {"recompute": True},
    "streamed, maps in host memory": {"host": True},
}


@dataclass
class Row:
    model: str
    direction: str
    size: int
    dtype: str
    variant: str
    seconds: float | None = None
    time_ratio: float | None = None
    cpu_seconds: float | None = None
    cpu_ratio: float | None = None
    allocated_bytes: int | None = None
    allocated_ratio: float | None = None
    rss_bytes: int | None = None
    rss_ratio: float | None = None
    planned_bytes: int | None = None
    psnr_to_untiled: float | None = None
    psnr_to_float32: float | None = None
    error: str | None = None


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    about = {**machine(), "runs": options.runs, "kind": device.type}
    slug = options.name or "streamed-" + re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    rows: list[Row] = []
    for name, dtype, size, direction in itertools.product(
        options.models, options.dtypes, options.sizes, options.directions
    ):
        found = case(name, direction, size, getattr(torch, dtype), device, options)
        rows += found
        print("\n".join(map(line, found)), file=sys.stderr, flush=True)
        if not options.no_save:  # an interrupted run keeps what it has measured
            save(slug, result(about, rows))
    print("\n".join(table(rows)), end="\n\n")
    publish(slug, result(about, rows), save=not options.no_save)


def result(about: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    return {"machine": about, "rows": [asdict(row) for row in rows]}


def save(slug: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{slug}.json").write_text(json.dumps(found, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="256 pixels, float32, one run, tiles of 128")
    parser.add_argument(
        "--lean",
        action="store_true",
        help="for sizes that take minutes: one timed run of each, warmed up at 256 pixels, without float32 reference "
        "and memory",
    )
    parser.add_argument("--models", nargs="+", default=["sd-v1"], choices=sorted(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--dtypes", nargs="+", default=["float16"] if cuda else ["float32", "bfloat16"])
    parser.add_argument("--directions", nargs="+", default=["decode", "encode"])
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["untiled", "tiled", "streamed", *(["streamed, maps in host memory"] if cuda else [])],
        choices=["untiled", "tiled", "tiled by diffusers", *OPTIONS],
    )
    parser.add_argument("--tile", type=int, help="tile size (default: the model's, a half picture at most)")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each variant")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--name", help="name of the result file (default: from the device)")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.dtypes, options.runs = [256], options.dtypes[:1], 1
    return options


def case(
    name: str,
    direction: str,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    options: argparse.Namespace,
) -> list[Row]:
    """One model, direction, size and format in all variants."""
    changes, spec, tile = MODELS[name]
    module = build(changes, dtype, device)
    given = example(direction, spec, size).to(device, dtype)
    measured = dtype != torch.float32 and not options.lean
    reference = run_in_float32(module, spec, direction, given) if measured else None
    runs: dict[str, Run] = {}
    rows: dict[str, Row] = {}
    for variant in options.variants:
        row = rows[variant] = Row(name, direction, size, dtype_name(dtype), variant)
        vae = make(variant, module, spec, options.tile or min(tile, size // 2))
        if isinstance(vae, Streamed):
            row.planned_bytes = vae.plan(direction, 1, size, size).peak_bytes
        work: Callable[[Tensor], Tensor] = getattr(vae, f"_{direction}")
        runs[variant] = lambda work=work: work(given)
        if options.lean:
            work(example(direction, spec, LEAN_WARM_UP).to(device, dtype))
    results = {}
    if options.lean:
        return lean(rows, runs, device)
    with torch.inference_mode():
        for variant, run in runs.items():  # the warm-up
            try:
                rows[variant].allocated_bytes, rows[variant].rss_bytes, result = peaks(run, device)
                results[variant] = result.float().cpu()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                rows[variant].error = str(error).splitlines()[0]
        clocks: dict[str, list[tuple[float, float]]] = {variant: [] for variant in results}
        for _ in range(options.runs):
            for variant in results:
                clocks[variant].append(timed(runs[variant], device))
    for variant, times in clocks.items():
        row = rows[variant]
        row.seconds = statistics.median(wall for wall, _ in times)
        row.cpu_seconds = statistics.median(cpu for _, cpu in times) if device.type == "cpu" else None
        base = rows["untiled"]
        row.time_ratio = over(row.seconds, base.seconds)
        row.cpu_ratio = over(row.cpu_seconds, base.cpu_seconds)
        row.allocated_ratio = over(row.allocated_bytes, base.allocated_bytes)
        row.rss_ratio = over(row.rss_bytes, base.rss_bytes)
        exact = results["untiled"] if reference is None else reference
        row.psnr_to_float32 = psnr(results[variant], exact) if reference is not None else None
        if variant != "untiled":
            row.psnr_to_untiled = psnr(results[variant], results["untiled"])
    return list(rows.values())


@torch.inference_mode()
def lean(rows: dict[str, Row], runs: dict[str, Run], device: torch.device) -> list[Row]:
    """The rows with one timed run of each variant, and its distance to untiled."""
    results: dict[str, Tensor] = {}
    for variant, run in runs.items():
        row = rows[variant]
        made: list[Tensor] = []
        row.seconds, cpu = timed(lambda run=run, made=made: made.append(run()), device)  # type: ignore[misc]
        row.cpu_seconds = cpu if device.type == "cpu" else None
        results[variant] = made[0].float().cpu()
        row.time_ratio = over(row.seconds, rows["untiled"].seconds)
        row.cpu_ratio = over(row.cpu_seconds, rows["untiled"].cpu_seconds)
        if variant != "untiled":
            row.psnr_to_untiled = psnr(results[variant], results["untiled"])
    return list(rows.values())


def build(changes: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """An AutoencoderKL of the SD shape whose random weights carry signals through all layers."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    module = AutoencoderKL(**{**SD_SHAPE, **changes}).eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=(layer.weight[0].numel()) ** -0.5)
            nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, mean=1.0, std=0.1)
            nn.init.normal_(layer.bias, std=0.1)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device, dtype)
    return module


def example(direction: str, spec: LatentSpec, size: int) -> Tensor:
    """Latents of unit variance, or a smooth random picture in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    if direction == "decode":
        side = size // spec.downscale
        return torch.randn((1, spec.channels, side, side), generator=generator)
    coarse = torch.rand((1, 3, 12, 12), generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def make(variant: str, module: Any, spec: LatentSpec, tile: int) -> LocalVAE:
    if variant == "untiled":
        return Whole(module, spec)
    if variant == "tiled":
        return Tiled(module, spec, tile_size=tile, tile_overlap=tile // 4)
    if variant == "tiled by diffusers":
        return tiled_by_diffusers(module, spec, tile, tile // 4)
    return Streamed(module, spec, **OPTIONS[variant])


def tiled_by_diffusers(module: Any, spec: LatentSpec, tile: int, overlap: int) -> Whole:
    """diffusers' own tiling of the same weights, for what ours is measured against."""
    module = copy.copy(module)
    module.enable_tiling()
    module.tile_sample_min_size, module.tile_latent_min_size = tile, tile // spec.downscale
    module.tile_overlap_factor = overlap / tile
    return Whole(module, spec)


def run_in_float32(module: Any, spec: LatentSpec, direction: str, given: Tensor) -> Tensor:
    """The same weights and input, computed in float32 by diffusers."""
    wide = copy.deepcopy(module)
    for parameter in wide.parameters():
        parameter.data = parameter.data.float()
    with torch.inference_mode():
        try:
            result: Tensor = getattr(Whole(wide, spec), f"_{direction}")(given.float())
        except torch.OutOfMemoryError:
            result = getattr(Streamed(wide, spec), f"_{direction}")(given.float())
    return result.cpu()


# ---- measuring


def timed(run: Run, device: torch.device) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peaks(run: Run, device: torch.device) -> tuple[int | None, int | None, Tensor]:
    """Allocated and resident bytes at the peak, and the result."""
    if device.type != "cpu":
        results: list[Tensor] = []
        return allocated_peak(lambda: results.append(run()), device), None, results[0]
    found: list[tuple[int | None, Tensor]] = []
    allocated = allocated_peak(lambda: found.append(rss_peak(run)), device)
    return allocated, *found[0]


def allocated_peak(run: Callable[[], object], device: torch.device) -> int | None:
    """The highest sum of bytes that torch had allocated during `run`, above what there was before."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        wait(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu":
        return None
    with measure_allocations() as peak:
        run()
    return peak.bytes


def rss_peak(run: Run) -> tuple[int | None, Tensor]:
    """How far the resident memory of this process rose during `run` (Linux), and the result."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None, run()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, see proc(5)
    before = _kib(status.read_text(), "VmRSS")
    result = run()
    return (_kib(status.read_text(), "VmHWM") - before) * 1024, result


def _kib(status: str, key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1])  # type: ignore[index]


def psnr(a: Tensor, b: Tensor) -> float | None:
    error = float((a.double() - b.double()).pow(2).mean().sqrt())
    return 20 * math.log10(float(b.max() - b.min()) / error) if error > 0 else None


def over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


# ---- showing


HEAD = (
    "case",
    "variant",
    "time ÷",
    "CPU ÷",
    "allocated ÷",
    "RSS ÷",
    "planned",
    "dB to untiled",
    "dB to fp32",
)


def cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else format(value, form)

    planned = over(row.planned_bytes, row.allocated_bytes)
    return (
        f"{row.model} {row.direction} {row.size} {row.dtype}",
        row.variant if row.error is None else f"{row.variant}: {row.error}",
        number(row.time_ratio),
        number(row.cpu_ratio),
        number(row.allocated_ratio),
        number(row.rss_ratio),
        number(planned),
        number(row.psnr_to_untiled, ".1f"),
        number(row.psnr_to_float32, ".2f"),
    )


def line(row: Row) -> str:
    pairs = zip(HEAD[2:], cells(row)[2:], strict=True)
    return ", ".join([" ".join(cells(row)[:2]), *(f"{head} {cell}" for head, cell in pairs if cell)])


def table(rows: list[Row]) -> list[str]:
    """Markdown; `planned` is the forecast divided by what was allocated."""
    lines = [HEAD, ("---",) * len(HEAD), *map(cells, rows)]
    return ["| " + " | ".join(entries) + " |" for entries in lines]


if __name__ == "__main__":
    main()

"""The endpoint's figures: what going over HTTP costs, what many clients do to it, what overlap saves, its memory.

    python -m benchmarks.endpoint [--runs 7] [--sd-runs 3] [--no-save]

The server is a process of its own on loopback. Ratios are medians of pairs, one of each alternately, so that a machine
that drifts drifts for both. `sd` is an AutoencoderKL of Stable Diffusion v1's architecture with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import requests
import torch
import uvicorn
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils.remote_utils import remote_decode

from backend.endpoint import Served, Service, build_app
from backend.models import BUILTIN, SD_V1_LATENTS, LatentSpec
from backend.remote.vae import RemoteVae
from backend.run.overlap import pipelined
from backend.vae.whole import Whole
from backend.wire import pixels_to_image
from benchmarks.common import machine, publish

SD_V1_SHAPE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7, help="measured pairs on the built-in VAE (default 7)")
    parser.add_argument(
        "--sd-runs", type=int, default=3, help="on the SD v1 architecture; 0 leaves it out (default 3)"
    )
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "runs": options.runs, "sd_runs": options.sd_runs}
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(Path(folder), options.runs, options.sd_runs)
    publish("endpoint", result, save=not options.no_save)


def measure(folder: Path, runs: int, sd_runs: int) -> dict[str, Any]:
    builtin = Whole(
        AutoencoderKL.from_pretrained(BUILTIN.repository, subfolder="vae").eval().requires_grad_(False),
        BUILTIN.latents,
    )
    vaes = [f"builtin={BUILTIN.repository}"]
    sd: Whole | None = None
    if sd_runs:
        torch.manual_seed(0)
        module = AutoencoderKL(**SD_V1_SHAPE).eval().requires_grad_(False)
        module.save_pretrained(folder / "sd")
        sd = Whole(module, SD_V1_LATENTS)
        vaes.append(f"sd={folder / 'sd'}")
    figures: dict[str, Any] = {}

    def record(name: str, figure: Any) -> None:
        figures[name] = figure
        print(f"{name}: {figure}", file=sys.stderr, flush=True)

    record("milliseconds_without_computing_512", overhead(20 * runs))
    with serving(vaes) as (url, process):
        record("remote_over_in_process_512_builtin", remote_over_local(url, "builtin", builtin, runs))
        record("our_client_over_diffusers_512", ours_over_diffusers(url, runs))
        record("requests_per_second_256", throughput(url, process, max(3, runs // 2)))
        record("memory_1024", memory(url, process))
        if sd is not None:
            record("remote_over_in_process_512_sd_v1_architecture", remote_over_local(url, "sd", sd, sd_runs))
    record("batch_of_4_overlap_over_serial", overlap(max(3, runs // 2)))
    return figures


@contextlib.contextmanager
def serving(vaes: list[str], **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """A headless server in a process of its own, once it is ready: (URL, process)."""
    flags = [part for vae in vaes for part in ("--vae", vae)]
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.endpoint", "--port", "0", *flags],
        stdout=subprocess.DEVNULL,  # uvicorn's line a request
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stderr is not None
    url = next(found[1] for line in process.stderr if (found := re.search(r"running on (http://\S+)", line)))
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    try:
        while requests.get(f"{url}/ready", timeout=60).status_code != 200:
            time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def paired(one: Callable[[], Any], other: Callable[[], Any], runs: int) -> dict[str, float]:
    """Medians of both and of their ratio, each pair one after the other, after one warm-up of each."""
    one()
    other()
    pairs = []
    for index in range(runs):
        # Who goes first changes, so that neither always finds the machine as the other left it.
        first, second = (one, other) if index % 2 else (other, one)
        a, b = seconds(first), seconds(second)
        pairs.append((a, b) if index % 2 else (b, a))
    return {
        "ratio": statistics.median(a / b for a, b in pairs),
        "seconds": statistics.median(a for a, _ in pairs),
        "seconds_compared": statistics.median(b for _, b in pairs),
    }


def latents(side: int, spec: LatentSpec = BUILTIN.latents, seed: int = 0) -> torch.Tensor:
    """What decodes to a picture of `side` x `side`."""
    height = width = side // spec.downscale
    return torch.randn(1, spec.channels, height, width, generator=torch.Generator().manual_seed(seed))


def remote_for(url: str, name: str, spec: LatentSpec) -> RemoteVae:
    return RemoteVae(spec, None, f"{url}/vae/{name}/decode", transfer="uint8", timeout=600)


def remote_over_local(url: str, name: str, local: Whole, runs: int) -> dict[str, float]:
    tensor = latents(512, local.spec)
    remote = remote_for(url, name, local.spec)
    return paired(lambda: remote.decode(tensor), lambda: local.decode(tensor), runs)


def ours_over_diffusers(url: str, runs: int) -> dict[str, float]:
    tensor = latents(512)
    remote = remote_for(url, "builtin", BUILTIN.latents)

    def theirs() -> Any:
        pixels = remote_decode(
            f"{url}/vae/builtin/decode",
            tensor,
            scaling_factor=BUILTIN.latents.scaling_factor,
            output_type="pt",
            partial_postprocess=True,
            return_type="pt",
        )
        return pixels_to_image(pixels)  # to end with what ours ends with, a float image in [-1, 1]

    return paired(lambda: remote.decode(tensor), theirs, runs)


class Answered:
    """A VAE that computes nothing: what is left is the way there and back."""

    mode = "none"

    def __init__(self, image: torch.Tensor) -> None:
        self.spec = BUILTIN.latents
        self.image = image

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        del latents
        return self.image


def overhead(runs: int) -> dict[str, float]:
    """Milliseconds of one 512 x 512 decode by uint8 with an answer that is ready: our client, diffusers', and pairs.

    Small against any computing, and much steadier to measure than a difference of two large numbers.
    """
    vae = Answered(torch.rand(1, 3, 512, 512) * 2 - 1)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(Service([Served("builtin", vae.spec, lambda: vae)])), port=0, log_level="critical"
        )
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    found = ours_over_diffusers(url, runs)
    server.should_exit = True
    return {
        "ours": found["seconds"] * 1000,
        "diffusers": found["seconds_compared"] * 1000,
        "ratio": found["ratio"],
    }


def throughput(url: str, process: psutil.Process, rounds: int, total: int = 16) -> dict[str, Any]:
    """Requests a second with 1, 4 and 16 clients, the counts alternating; medians over rounds.

    The server's processor seconds a request are reported as well: a busy machine cannot blur those.
    """
    tensor = latents(256)

    def load(clients: int) -> tuple[float, float]:
        def post(_: int) -> None:
            remote_for(url, "builtin", BUILTIN.latents).decode(tensor)

        before = sum(process.cpu_times()[:2])
        with ThreadPoolExecutor(clients) as pool:
            taken = seconds(lambda: list(pool.map(post, range(total))))
        return total / taken, (sum(process.cpu_times()[:2]) - before) / total

    load(4)
    measured: dict[int, list[tuple[float, float]]] = {1: [], 4: [], 16: []}
    for _ in range(rounds):
        for clients, found in measured.items():
            found.append(load(clients))
    serial = measured[1]
    return {
        str(clients): {
            "requests_per_second": statistics.median(rate for rate, _ in found),
            "over_one_client": statistics.median(a / b for (a, _), (b, _) in zip(found, serial, strict=True)),
            "cpu_seconds_per_request": statistics.median(cpu for _, cpu in found),
        }
        for clients, found in measured.items()
    }


def memory(url: str, process: psutil.Process) -> dict[str, int]:
    """The server's highest resident memory with 1 and with 16 clients that decode 1024 x 1024 pixels at once."""
    tensor = latents(1024)

    def peak(clients: int) -> int:
        peak = process.memory_info().rss
        with ThreadPoolExecutor(clients) as pool:
            jobs = [
                pool.submit(remote_for(url, "builtin", BUILTIN.latents).decode, tensor)
                for _ in range(clients)
            ]
            while not all(job.done() for job in jobs):
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.01)
            for job in jobs:
                job.result()
        return peak

    idle = process.memory_info().rss
    return {"idle_bytes": idle, "1_client_bytes": peak(1), "16_clients_bytes": peak(16)}


def overlap(runs: int) -> dict[str, float]:
    """Four pictures denoised here and decoded there, overlapped against one after the other; one core for each side.

    With all cores on both sides of one machine there would be nothing to gain: both would only wait for each other.
    """
    unet = (
        UNet2DConditionModel.from_pretrained(BUILTIN.repository, subfolder="unet")
        .eval()
        .requires_grad_(False)
    )
    prompt = torch.zeros(1, 77, unet.config.cross_attention_dim)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def denoised() -> Iterator[torch.Tensor]:
        for picture in range(4):
            noise = latents(256, seed=picture)
            with torch.inference_mode():
                for step in range(20):
                    noise = noise - 0.05 * unet(noise, 50 * (20 - step), prompt, return_dict=False)[0]
            yield latents(512, seed=picture)

    try:
        with serving([f"builtin={BUILTIN.repository}"], OMP_NUM_THREADS="1", MKL_NUM_THREADS="1") as (url, _):
            remote = remote_for(url, "builtin", BUILTIN.latents)
            return paired(
                lambda: list(pipelined(denoised(), remote.decode)),
                lambda: [remote.decode(tensor) for tensor in denoised()],
                runs,
            )
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()

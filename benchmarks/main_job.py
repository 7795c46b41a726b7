"""The main job's figures: start to first page, first and warm picture, overhead over a plain diffusers script.

    python -m benchmarks.main_job [--runs 7] [--no-save] [--against FOLDER]
    python -m benchmarks.main_job --cold    starts alone, each from the disk, as in a new container

Overhead is measured in pairs, ours and the plain script in turn, so that a machine that drifts drifts for both. So are
starts: the page and a bare `import gradio`, and with `--against` this checkout and another one.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks.common import machine, publish

ROOT = Path(__file__).parent.parent
PROMPT = "a mountain lake at sunset"
COLD = """
from PIL import Image
from backend.job import Job
from backend.settings import Settings
from backend.studio import Studio
for _ in Studio(Settings(device="cpu")).img2img(Job(Image.new("RGB", (256, 256), "teal"), "a lake", seed=1)): pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each (default 7)")
    parser.add_argument("--starts", type=int, default=3, help="new processes of each kind (default 3)")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another checkout, to compare starts with"
    )
    parser.add_argument(
        "--cold", action="store_true", help="starts alone, from the disk (Linux, nothing else running there)"
    )
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    start = started(options.starts, options.against, options.cold)
    if options.cold:
        publish("main_job-cold", {"machine": machine(), **start}, save=not options.no_save)
        return
    ours, plain = paired(options.runs)
    result: dict[str, Any] = {
        "machine": machine(),
        **start,
        "seconds_warm_img2img": statistics.median(ours),
        "seconds_warm_plain_diffusers": statistics.median(plain),
        "overhead": statistics.median(a / b for a, b in zip(ours, plain, strict=True)) - 1,
        "runs": options.runs,
    }
    publish("main_job", result, save=not options.no_save)


@dataclass(frozen=True)
class Took:
    """By the clock, and of all processors: what other programs on the machine slow down, and what they hardly do."""

    seconds: float
    cpu_seconds: float


def started(runs: int, against: Path | None, cold: bool) -> dict[str, Any]:
    """Medians of new processes, one of each kind in turn: page and first picture, here and in `against`."""
    folders = [Path(sys.prefix), Path(os.__file__).parent, ROOT, *([against] if against else [])]
    measured: dict[str, Callable[[], Took]] = {
        "import_gradio": lambda: run_python("import gradio", ROOT),
        "page": lambda: start_to_first_page(ROOT),
        "first_picture": lambda: run_python(COLD, ROOT),
    }
    ratios = {"page_over_import_gradio": ("page", "import_gradio")}
    if against is not None:
        measured["page_there"] = lambda: start_to_first_page(against)
        measured["first_picture_there"] = lambda: run_python(COLD, against)
        ratios["page_over_there"] = ("page", "page_there")
        ratios["first_picture_over_there"] = ("first_picture", "first_picture_there")
    took: dict[str, list[Took]] = {name: [] for name in measured}
    for index in range(-1, runs):  # the first round compiles the files and brings them into memory
        for name, run in measured.items():
            if cold:
                put_out_of_memory(folders)
            one = run()
            if index >= 0:
                took[name].append(one)

    def ratio(above: str, below: str) -> dict[str, float]:
        pairs = list(zip(took[above], took[below], strict=True))
        return {
            "seconds": statistics.median(a.seconds / b.seconds for a, b in pairs),
            "cpu_seconds": statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs),
        }

    return {
        "seconds_to_first_page": statistics.median(one.seconds for one in took["page"]),
        "seconds_first_img2img_with_imports_and_loading": statistics.median(
            one.seconds for one in took["first_picture"]
        ),
        "start": {name: ratio(*pair) for name, pair in ratios.items()},
        "starts": runs,
    }


def put_out_of_memory(folders: list[Path]) -> None:
    """Ask the system to forget what it keeps of the files in `folders`; what a process has mapped stays."""
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    file = os.open(Path(place) / name, os.O_RDONLY)
                except OSError:  # a socket, a broken link
                    continue
                try:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)


def start_to_first_page(root: Path) -> Took:
    """From `python app.py` to the first 200 answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = time.perf_counter()
    app = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process = psutil.Process(app.pid)
    try:
        while time.perf_counter() - begin < 120:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                    if reply.status == 200:
                        used = process.cpu_times()
                        return Took(time.perf_counter() - begin, used.user + used.system)
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.02)
        raise TimeoutError("the page did not come up within two minutes")
    finally:
        app.terminate()
        app.wait(30)


def run_python(code: str, root: Path) -> Took:
    """A new process from its start to its end."""
    before, begin = psutil.Process().cpu_times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    seconds, after = time.perf_counter() - begin, psutil.Process().cpu_times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(seconds, used)


def paired(runs: int) -> tuple[list[float], list[float]]:
    """Seconds of `runs` warm pictures at the model's defaults: through our img2img, and by a plain script."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline

    from backend import images
    from backend.job import Job
    from backend.models import BUILTIN
    from backend.settings import Settings
    from backend.studio import Studio

    studio = Studio(Settings(device="cpu", model="builtin"))
    side = BUILTIN.native_size
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    vae = AutoencoderKL.from_pretrained(BUILTIN.repository, subfolder="vae", dtype=torch.float32).eval()
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(BUILTIN.repository, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def ours() -> None:
        for _ in studio.img2img(Job(picture, PROMPT, seed=1)):
            pass

    def plain() -> None:
        with torch.no_grad():
            latents = vae.encode(images.to_tensor(picture)).latent_dist.mode() * vae.config.scaling_factor
            pipeline(
                PROMPT,
                image=latents,
                strength=BUILTIN.strength,
                num_inference_steps=BUILTIN.num_inference_steps,
                guidance_scale=BUILTIN.guidance_scale,
                generator=torch.Generator().manual_seed(1),
            )

    def on_our_thread() -> None:
        """OpenMP keeps a team of helpers for each thread that has computed, and slows all of them down once there are
        more helpers than processors; so the plain script has the thread that ours computes on."""
        studio.loader.queue.run(plain)

    seconds: dict[Callable[[], None], list[float]] = {ours: [], on_our_thread: []}
    for work in (*seconds, *seconds):  # warm-up
        work()
    for index in range(runs):
        for work in list(seconds)[:: 1 if index % 2 == 0 else -1]:
            begin = time.perf_counter()
            work()
            seconds[work].append(time.perf_counter() - begin)
    return seconds[ours], seconds[on_our_thread]


if __name__ == "__main__":
    main()

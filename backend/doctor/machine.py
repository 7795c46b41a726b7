"""The machine: processor, memory, disk, graphics card, libraries, and the model hub."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from backend.device.availability import cuda_problem, hub_answers, nvidia_smi
from backend.device.measure import processor_name
from backend.doctor.finding import Finding
from backend.message import Message
from backend.settings import Settings
from backend.units import card_size, size

_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "huggingface-hub", "gradio", "spaces")
_LITTLE_DISK = 10e9
"""A model of Stable Diffusion's kind takes 2 to 7 GB."""


def libraries() -> Iterator[Finding]:
    """Versions of what the app runs on; None is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    yield Finding(
        "libraries",
        "ok",
        Message(
            "Python {python}, torch {torch}, diffusers {diffusers}, gradio {gradio}, on {system}.",
            python=found["python"],
            torch=found["torch"],
            diffusers=found["diffusers"],
            gradio=found["gradio"],
            system=platform.platform(terse=True),
        ),
        found,
    )


def processor() -> Iterator[Finding]:
    """The processor, and how long its half precisions take, as a multiple of float32, by a small convolution."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    times = {name: _convolution_seconds(name) for name in ("float32", "bfloat16", "float16")}
    base = times["float32"]
    ratios = {name: None if value is None or not base else value / base for name, value in times.items()}
    figures = {
        "name": processor_name() or platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "capability": capability,
        "seconds_as_multiple_of_float32": ratios,
    }
    yield Finding(
        "processor",
        "ok",
        Message(
            "Processor: {name}, {threads} threads, {capability}. A convolution in bfloat16 takes {ratio} times as "
            "long as in float32.",
            name=figures["name"],
            threads=figures["threads"],
            capability=capability,
            ratio="?" if ratios["bfloat16"] is None else f"{ratios['bfloat16']:.1f}",
        ),
        figures,
    )


def _convolution_seconds(dtype: str) -> float | None:
    """Median seconds of a VAE-like convolution on the processor; None if it has no such kernel."""
    import torch
    from torch.nn.functional import conv2d

    kind = getattr(torch, dtype)
    picture, weight = torch.ones(1, 64, 64, 64, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    times = []
    try:
        with torch.inference_mode():
            for _ in range(4):
                started = time.perf_counter()
                conv2d(picture, weight, padding=1)
                times.append(time.perf_counter() - started)
    except RuntimeError:
        return None
    return statistics.median(times[1:])


def memory() -> Iterator[Finding]:
    """This computer's RAM."""
    ram = psutil.virtual_memory()
    values = {"free": size(ram.available), "total": size(ram.total)}
    yield Finding(
        "memory",
        "ok",
        Message("Memory: {free} free of {total}.", **values),
        {"free_bytes": ram.available, "total_bytes": ram.total},
    )


def disk(settings: Settings, pictures: Path) -> Iterator[Finding]:
    """Room for pictures and for models, and whether they can be written."""
    from huggingface_hub import constants

    places = {"pictures": pictures, "models": Path(constants.HF_HUB_CACHE)}
    if settings.cache_folder is not None:
        places["measurements"] = settings.cache_folder
    for name, folder in places.items():
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(nearest).free
        figures = {"folder": str(folder), "free_bytes": free}
        values = {"folder": str(folder), "free": size(free)}
        if not os.access(nearest, os.W_OK):
            message = Message(
                "The folder {folder} cannot be written, so nothing is kept there. Let this user write it, or choose "
                "another one (--folder, HF_HOME, XDG_CACHE_HOME).",
                **values,
            )
            # What cannot be remembered is measured again; pictures and models would be lost.
            yield Finding(f"disk: {name}", "note" if name == "measurements" else "problem", message, figures)
        elif name == "models" and free < _LITTLE_DISK:
            message = Message("Disk: only {free} are free at {folder}; a model takes 2 to 34 GB.", **values)
            yield Finding(f"disk: {name}", "note", message, figures)
        else:
            yield Finding(
                f"disk: {name}", "ok", Message("Disk: {free} are free at {folder}.", **values), figures
            )


def hub() -> Iterator[Finding]:
    """Whether the model hub answers; no model is asked for."""
    from huggingface_hub import constants, get_token

    started = time.perf_counter()
    answers = hub_answers()
    seconds = time.perf_counter() - started
    figures = {
        "answers": answers,
        "seconds": seconds if answers else None,
        "offline_by_setting": constants.HF_HUB_OFFLINE,
        "has_token": get_token() is not None,
    }
    if answers:
        yield Finding("hub", "ok", Message("The model hub answers."), figures)
        return
    message = (
        Message("The model hub is switched off here (HF_HUB_OFFLINE); only models on this computer run.")
        if constants.HF_HUB_OFFLINE
        else Message("The model hub cannot be reached; only models on this computer run.")
    )
    yield Finding("hub", "note", message, figures)


def card(settings: Settings) -> Iterator[Finding]:
    """The graphics card: whether there is one, whether torch can use it, and its memory."""
    figures = card_figures()
    if settings.device == "cpu":
        yield Finding("card", "ok", Message("This app was started to compute on the processor."), figures)
    elif (problem := cuda_problem()) is not None:
        yield Finding("card", "problem", problem, figures)
    elif figures["torch_sees_it"]:
        values = {
            "name": figures["name"],
            "free": card_size(figures["free_bytes"]),
            "total": card_size(figures["total_bytes"]),
        }
        yield Finding(
            "card", "ok", Message("Graphics card: {name}, {free} free of {total}.", **values), figures
        )
    elif figures["mps"]:
        yield Finding("card", "ok", Message("Graphics: this Mac’s own chip."), figures)
    else:
        yield Finding("card", "note", Message("No graphics card was found; the processor computes."), figures)


def card_figures() -> dict[str, Any]:
    """What torch and the driver say of the first card; None for what nobody says."""
    import torch

    found = nvidia_smi()
    figures: dict[str, Any] = {
        "driver": None if found is None else {"card": found[0], "version": found[1]},
        "torch_cuda": torch.version.cuda,
        "torch_sees_it": torch.cuda.is_available(),
        "mps": sys.platform == "darwin" and torch.backends.mps.is_available(),
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        figures |= {
            "name": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "free_bytes": free,
            "total_bytes": total,
        }
    return figures

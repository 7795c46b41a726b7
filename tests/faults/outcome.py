"""One fault tried: as a stage alone, under a whole run, and with `auto`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from unittest import mock

import torch
from PIL import Image

from backend.errors import LatentRelayError
from backend.events import Result, StageDone
from backend.job import Job, VaeOptions
from backend.placement import planner
from backend.report import StageReport
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from tests.faults.matrix import Fault

WHOLE, REMOTE, AUTO = (
    VaeOptions("whole"),
    VaeOptions("remote"),
    VaeOptions("auto", tile_size=64, tile_overlap=16),
)
AT_ONCE = 64
"""Stages and runs tried at the same time: nearly all of it is waiting."""


@dataclass(frozen=True)
class StageOutcome:
    """What one stage in the mode "remote" came to."""

    error: LatentRelayError | None
    tries: int | None
    """How often the picture was asked for; None where no server could count."""
    ids: tuple[str | None, ...]
    report: StageReport | None


@dataclass(frozen=True)
class RunOutcome:
    """What a whole run came to whose decode went wrong after the denoising, and what was left."""

    error: LatentRelayError | None
    denoised: torch.Tensor
    rescued: Image.Image
    """The denoised latents, decoded here afterwards."""


@dataclass(frozen=True)
class Outcome:
    fault: Fault
    stage: dict[str, StageOutcome]
    run: RunOutcome | None
    """None where the preflight finds the fault before the denoising."""
    auto: StageReport


def job(picture: Image.Image, **changes: VaeOptions) -> Job:
    """A quick one: two steps at 96 by 64."""
    options = {"encode": WHOLE, "decode": WHOLE, **changes}
    return Job(picture, "a lake", strength=0.5, num_inference_steps=4, seed=3, width=96, height=64, **options)


def try_all(faults: Sequence[Fault], studio: Studio, picture: Image.Image) -> dict[str, Outcome]:
    """Every fault's outcome by its title. `studio` serves the real endpoint and lends its models."""
    latents, _ = studio.encode(picture, "builtin", WHOLE)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pairs = [(fault, stage) for fault in faults for stage in fault.stages]
        outcomes = list(pool.map(lambda pair: _try_stage(*pair, studio, picture, latents), pairs))
        # As if memory had run out here: then `auto` sends the work away, and has tiles left when that fails. The runs
        # beside it choose their modes themselves.
        with mock.patch.object(planner, "free_bytes", lambda device: 1):
            running = pool.map(lambda fault: _try_run(fault, studio, picture), faults)
            autos = list(pool.map(lambda fault: _try_auto(fault, studio, picture, latents), faults))
            runs = list(running)
    staged: dict[str, dict[str, StageOutcome]] = {fault.title: {} for fault in faults}
    for (fault, stage), outcome in zip(pairs, outcomes, strict=True):
        staged[fault.title][stage] = outcome
    return {
        fault.title: Outcome(fault, staged[fault.title], run, auto)
        for fault, run, auto in zip(faults, runs, autos, strict=True)
    }


def client(studio: Studio, url: str, timeout: float) -> Studio:
    """A studio that sends the built-in model's VAE stages to `url` and shares `studio`'s models."""
    pair = EndpointPair(f"{url}/vae/builtin/encode", f"{url}/vae/builtin/decode")
    settings = Settings(device="cpu", endpoints={"builtin": pair}, remote_timeout=timeout)
    return Studio(settings, loader=studio.loader)


def _try_stage(
    fault: Fault, stage: str, studio: Studio, picture: Image.Image, latents: torch.Tensor
) -> StageOutcome:
    with fault.serve(studio.self_url or "") as (url, spoiler):
        caller = client(studio, url, fault.timeout)
        error = report = None
        try:
            if stage == "encode":
                _, report = caller.encode(picture, "builtin", REMOTE)
            else:
                _, report = caller.decode(latents, "builtin", REMOTE)
        except LatentRelayError as raised:
            error = raised
        tries = spoiler.pictures if spoiler else None
        return StageOutcome(error, tries, tuple(spoiler.ids) if spoiler else (), report)


def _try_run(fault: Fault, studio: Studio, picture: Image.Image) -> RunOutcome | None:
    if fault.spoil is None or "decode" not in fault.stages:
        return None
    kept: list[torch.Tensor] = []
    error = None
    with fault.serve(studio.self_url or "", sound_at_first=True) as (url, _):
        try:
            for event in client(studio, url, fault.timeout).img2img(job(picture, decode=REMOTE)):
                if isinstance(event, StageDone) and event.latents is not None:
                    kept.append(event.latents)
                if isinstance(event, Result):
                    return RunOutcome(None, event.latents, event.image)
        except LatentRelayError as raised:
            error = raised
    assert len(kept) == 2, f"{fault.title}: encoded and denoised latents are handed over as they are finished"
    return RunOutcome(error, kept[-1], studio.decode(kept[-1], "builtin", WHOLE)[0])


def _try_auto(fault: Fault, studio: Studio, picture: Image.Image, latents: torch.Tensor) -> StageReport:
    with fault.serve(studio.self_url or "") as (url, _):
        caller = client(studio, url, fault.timeout)
        if "decode" in fault.stages:
            return caller.decode(latents, "builtin", AUTO)[1]
        return caller.encode(picture, "builtin", AUTO)[1]


def as_in_the_docs(text: str) -> str:
    """With the port and the id of this very try replaced by ones that stay."""
    text = re.sub(r"127\.0\.0\.1:\d+/vae/builtin/\w+", "vae.example/vae", text)
    return re.sub(r"\(Request \w+\)", "(Request 3f9c01d2ab)", text)

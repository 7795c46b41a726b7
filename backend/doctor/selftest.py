"""The self-test: the VAE modes against each other, a job from start to end, this app as its own remote, a download."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from backend import quality, units
from backend.compare import SAME_DB, Row, compare
from backend.device.availability import hub_answers
from backend.device.interrupt import raise_if_stopped
from backend.doctor.finding import Finding, Status
from backend.errors import Cancelled, LatentRelayError, UnsupportedVAEError
from backend.events import Downloading, Result, StageStarted, Step
from backend.job import Job, UserEndpoint, VaeOptions
from backend.message import Message, join, literal, mode_name
from backend.models import ModelSpec
from backend.placement.fit import DIRECTIONS
from backend.request import StageRequest
from backend.settings import LOW_MEMORY
from backend.studio import Studio
from backend.token import Token

if TYPE_CHECKING:
    import torch

EXACT_DB = 110.0
"""Of streamed against whole in float32, where both differ by the order of their sums only."""
FORECAST_TOLERANCE = 0.15
"""Of the forecast; what the tests hold on a processor."""
_CLEARLY_SLOWER = 1.5
_SEED = 1
_SLOWEST_STOP = 2.0
"""Seconds in which a stopped download must have ended."""
_PATIENCE = 20.0
"""Seconds for a download's first bytes."""
_POLL = 0.05
"""Seconds between two looks whether a download has ended."""


def test_picture(side: int) -> Image.Image:
    """A picture with smooth parts, edges and some grain; the same on every machine."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    waves = [
        0.5 + 0.3 * np.sin(7 * rows + phase) * np.cos(5 * columns - phase) + 0.2 * (columns > rows)
        for phase in (0, 1, 2)
    ]
    grain = np.random.default_rng(_SEED).normal(0, 0.02, (side, side, 3))
    pixels = np.clip(np.stack(waves, -1) + grain, 0, 1)
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def modes_agree(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """Whole, streamed and tiled on this device: distance, time, and peak memory against the forecast."""
    options = VaeOptions(tile_size=max(64, side // 2), tile_overlap=max(64, side // 2) // 4)
    forecasts = {
        direction: studio.forecast(spec.name, direction, side, side, options) for direction in DIRECTIONS
    }
    picture, modes = test_picture(side), ["whole", "streamed", "tiled"]
    for _ in compare(studio, picture, spec.name, modes, options, stop):
        pass  # a first run loads libraries and chooses kernels
    for row in compare(studio, picture, spec.name, modes, options, stop):
        known = [forecasts[direction][row.mode].peak_bytes for direction in DIRECTIONS]
        peaks = [peak for peak in known if peak is not None]
        yield _judged(row, spec, side, max(peaks) if len(peaks) == len(known) else None)


def _judged(row: Row, spec: ModelSpec, side: int, forecast: int | None) -> Finding:
    check = f"{spec.name}: {row.mode}"
    if row.error is not None:
        return Finding(check, "problem", row.error)
    figures = row.as_dict() | {"side": side, "forecast_bytes": forecast}
    ratio = None if not row.added_bytes or not forecast else row.added_bytes / forecast
    figures["peak_as_multiple_of_forecast"] = ratio
    values = {
        "model": spec.title_message,
        "mode": mode_name(row.mode),
        "side": side,
        "seconds": f"{row.seconds:.2g}",
        "memory": "?" if row.added_bytes is None else f"{row.added_bytes / 1e6:.0f}",
        "forecast": "?" if forecast is None else f"{forecast / 1e6:.0f}",
    }
    message = Message(
        "{model}, {mode}, there and back at {side} × {side} pixels: {seconds} s, {memory} MB (forecast {forecast} MB).",
        **values,
    )
    if row.mode != "whole":
        message = join(message, Message("Difference from whole: {distance}.", distance=_db(row.psnr)))
    differs = row.mode == "streamed" and (row.psnr or 0.0) < SAME_DB
    off = ratio is not None and abs(ratio - 1) > FORECAST_TOLERANCE
    return Finding(check, "problem" if differs else "note" if off else "ok", message, figures)


def auto_takes_the_faster(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """What "auto" would take once whole and streamed were measured here, as after `modes_agree` and one run more."""
    for _ in compare(studio, test_picture(side), spec.name, ["whole", "streamed"], VaeOptions(), stop):
        pass  # a card's first run of a shape does not count
    for direction in DIRECTIONS:
        first = studio.planner.candidates(StageRequest(direction, spec, side, side, VaeOptions("auto")))[0]
        expected = studio.forecast(spec.name, direction, side, side, VaeOptions())
        seconds = {mode: expected[mode].measured_seconds for mode in ("whole", "streamed")}
        known = [value for value in seconds.values() if value is not None]
        chosen = seconds.get(first.mode)
        slower = chosen is not None and chosen > _CLEARLY_SLOWER * min(known)
        values = {"model": spec.title_message, "mode": mode_name(first.mode), "reason": first.reason}
        message = (
            Message("{model}: auto encodes {mode}. {reason}", **values)
            if direction == "encode"
            else Message("{model}: auto decodes {mode}. {reason}", **values)
        )
        figures = {"side": side, "mode": first.mode, "measured_seconds": seconds}
        yield Finding(f"{spec.name}: auto, {direction}", "note" if slower else "ok", message, figures)


def offloading_agrees(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """On a card: the same job with all of the denoiser there, with the network at work, and with the layer at work."""
    loader, first = studio.loader, None
    if loader.device.type != "cuda":
        return
    job = Job(test_picture(side), "a house by a lake", model=spec.name, seed=_SEED)
    for low_memory in LOW_MEMORY[LOW_MEMORY.index(studio.settings.low_memory) :]:
        started, result = time.perf_counter(), None
        with loader.placed_as(spec, low_memory):
            for event in studio.img2img(job):
                raise_if_stopped(stop)
                if isinstance(event, Result):
                    result = event
        check, seconds = f"{spec.name}: low memory, {low_memory}", time.perf_counter() - started
        if result is None:
            yield Finding(
                check, "problem", Message("{model}: a job ended without a picture.", model=spec.title_message)
            )
            continue
        first = first or result
        distance = quality.psnr(result.image, first.image)
        yield Finding(
            check,
            "ok" if distance >= SAME_DB else "problem",
            Message(
                "{model}, --low-memory {how}: {seconds} s with loading. Difference from the first: {distance}.",
                model=spec.title_message,
                how=literal(low_memory),
                seconds=f"{seconds:.2g}",
                distance=_db(distance),
            ),
            {
                "seconds": seconds,
                "db": None if math.isinf(distance) else distance,
                "reports": [report.as_dict() for report in result.reports],
            },
        )


def _db(value: float | None) -> Message:
    if value is None:
        return literal("?")
    return Message("none") if math.isinf(value) else literal(f"{value:.0f} dB")


def streamed_is_exact(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """Streamed against whole in float32, before any rounding to 8 bits, twice; on a card also with maps in RAM."""
    from backend.device.precision import copy_in_dtype
    from backend.vae.modes import local_vae
    from backend.vae.streamed import Streamed

    def distances() -> list[float]:
        import torch

        module = copy_in_dtype(studio.loader.vae(spec), torch.float32)
        whole, device = local_vae("whole", module, spec.latents), studio.loader.device
        shape = (1, spec.latents.channels, side // spec.latents.downscale, side // spec.latents.downscale)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(_SEED)).to(device)
        reference = whole.decode(latents)
        kinds = [Streamed(module, spec.latents, stop=stop)] * 2
        if device.type == "cuda":
            kinds += [Streamed(module, spec.latents, host=True, stop=stop)] * 2
        return [_distance(kind.decode(latents), reference) for kind in kinds]

    try:
        found = studio.executor.queue.run(distances, stop)
    except UnsupportedVAEError as error:
        yield Finding(f"{spec.name}: exact", "note", error.full_message)
        return
    yield Finding(
        f"{spec.name}: exact",
        "ok" if min(found) >= EXACT_DB else "problem",
        Message(
            "{model}, streamed in float32: {distance} dB from whole; {least} dB or more is rounding only.",
            model=spec.title_message,
            distance="∞" if math.isinf(min(found)) else f"{min(found):.0f}",
            least=f"{EXACT_DB:.0f}",
        ),
        {
            "db": [None if math.isinf(value) else value for value in found],
            "identical": math.isinf(min(found)),
        },
    )


def _distance(image: torch.Tensor, reference: torch.Tensor) -> float:
    """PSNR in dB of images in [-1, 1]; infinite if they are the same."""
    error = float((image.double() - reference.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(4 / error)


def job_runs(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """One job from start to end: its stages, its steps as they were announced, and its time."""
    job = Job(test_picture(side), "a house by a lake", model=spec.name, seed=_SEED)
    announced, done, stages, result = 0, 0, [], None
    started = time.perf_counter()
    for event in studio.img2img(job):  # with a stop of its own, because the end of a job sets it
        raise_if_stopped(stop)
        if isinstance(event, StageStarted):
            stages.append({"stage": event.stage, "mode": event.mode, "reason": str(event.reason)})
        elif isinstance(event, Step):
            announced, done = event.steps, max(done, event.step)
        elif isinstance(event, Result):
            result = event
    seconds = time.perf_counter() - started
    check = f"{spec.name}: job"
    figures = {"seconds": seconds, "steps": done, "announced_steps": announced, "stages": stages}
    values = {"model": spec.title_message, "done": done, "announced": announced, "seconds": f"{seconds:.2g}"}
    if result is None:
        yield Finding(check, "problem", Message("{model}: a job ended without a picture.", **values), figures)
        return
    figures["reports"] = [report.as_dict() for report in result.reports]
    if done != announced:
        message = Message("{model}: a job ran {done} steps where {announced} were announced.", **values)
        yield Finding(check, "problem", message, figures)
        return
    yield Finding(
        check,
        "ok",
        Message("{model}: a job ran from start to end, {done} steps in {seconds} s.", **values),
        figures,
    )


def remote_agrees(
    studio: Studio, spec: ModelSpec, side: int, stop: threading.Event | None = None
) -> Iterator[Finding]:
    """This machine as its own remote, over a real connection: the same picture, while a local stage runs beside."""
    picture, beside = test_picture(side), []

    def decode_beside() -> None:
        beside.append(studio.decode(latents, spec.name, whole, stop)[1])

    whole = VaeOptions("whole")
    latents, _ = studio.encode(picture, spec.name, whole, stop)
    expected, alone = studio.decode(latents, spec.name, whole, stop)
    with _served(studio) as url:
        address, secret = f"{url}/vae/{spec.name}", studio.settings.serve_token
        endpoint = UserEndpoint(
            "self-test",
            (spec.name,),
            f"{address}/encode",
            f"{address}/decode",
            token=Token.bound_to(secret, address) if secret else None,
            public_only=False,
        )
        thread = threading.Thread(target=decode_beside)
        thread.start()
        image, report = studio.decode(latents, spec.name, VaeOptions("remote", endpoint=endpoint), stop)
        thread.join()
    distance = quality.psnr(image, expected)
    traffic = report.traffic
    peaks = [item.cost.added_bytes for item in (alone, *beside)]
    figures = {
        "db": None if math.isinf(distance) else distance,
        "seconds": report.cost.seconds,
        "bytes_sent": None if traffic is None else traffic.bytes_sent,
        "bytes_received": None if traffic is None else traffic.bytes_received,
        "added_bytes_alone_and_beside": peaks,
    }
    message = Message(
        "{model}, decoded by this app’s own endpoint in {seconds} s. Difference from whole: {distance}.",
        model=spec.title_message,
        distance=_db(distance),
        seconds=f"{report.cost.seconds:.2g}",
    )
    status: Status = "ok" if distance >= SAME_DB and len(beside) == 1 else "problem"
    known = [peak for peak in peaks if peak]
    if len(known) == 2 and abs(known[1] / known[0] - 1) > FORECAST_TOLERANCE:
        status = "note" if status == "ok" else status
        message = join(message, Message("A stage beside it disturbed the measurement of memory."))
    yield Finding(f"{spec.name}: remote", status, message, figures)


@contextlib.contextmanager
def _served(studio: Studio) -> Iterator[str]:
    """The studio's VAE routes on a free port of this machine only; gives the base URL."""
    import uvicorn
    from starlette.applications import Starlette

    app = Starlette(routes=studio.routes())
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, name="self-test", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    if not server.started:
        raise RuntimeError("no port could be opened on this machine")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def download_stops(
    studio: Studio, stop: threading.Event | None = None, patience: float = _PATIENCE
) -> Iterator[Finding]:
    """A VAE that is not here is fetched until its first bytes have come, and stopped. They stay for the next time.

    Nothing is found where the hub does not answer, or everything is here.

    Raises:
        Cancelled: the person's `stop` was set.
    """
    missing = (
        spec for spec in studio.models.values() if spec.available and studio.loader.missing(spec, ["VAE"])
    )
    spec = next(missing, None)
    if spec is None or not hub_answers():
        return
    end, seen, failures = threading.Event(), list[Downloading](), list[Message]()

    def fetch() -> None:
        try:
            studio.loader.fetch(spec, ["VAE"], seen.append, end)
        except Cancelled:
            pass  # by `end`
        except LatentRelayError as error:
            failures.append(error.full_message)

    thread = threading.Thread(target=fetch, name="doctor-download", daemon=True)
    begun, arrived, ending = time.monotonic(), False, 0.0
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        arrived = bool(seen) and seen[-1].done > seen[0].done
        given_up = time.monotonic() - begun > patience or (stop is not None and stop.is_set())
        if (arrived or given_up) and not end.is_set():
            ending = time.monotonic()
            end.set()
    took = time.monotonic() - ending if arrived else None
    raise_if_stopped(stop)
    if failures:
        yield Finding("download", "note", failures[0], {"model": spec.name})
        return
    if not end.is_set():  # it was small, and all of it is here
        return
    speed = seen[-1].bytes_per_second if seen else None
    figures = {"model": spec.name, "bytes_per_second": speed, "seconds_to_stop": took}
    if took is None:
        message = Message("The hub answers, but nothing of {model} arrived.", model=spec.title_message)
        yield Finding("download", "problem", message, figures)
    elif took > _SLOWEST_STOP:
        message = Message(
            "Stopping a download took {seconds}, which is too long.", seconds=units.seconds(took)
        )
        yield Finding("download", "problem", message, figures)
    else:
        message = Message("A download began, and stopping it took {seconds}.", seconds=units.seconds(took))
        yield Finding("download", "ok", message, figures)

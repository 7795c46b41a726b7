"""Where work would run: each model on this machine and why, and the endpoints that the owner configured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from backend.device.availability import hub_answers
from backend.device.hub import hub_listing, local_listing, weight_bytes
from backend.device.interrupt import raise_if_stopped
from backend.doctor.finding import Finding, Status
from backend.errors import Cancelled, LatentRelayError
from backend.events import Downloading
from backend.job import VaeOptions
from backend.message import Message, join, literal, mode_name
from backend.placement.fit import DIRECTIONS
from backend.remote.endpoints import display_host
from backend.request import StageRequest
from backend.studio import Studio
from backend.units import seconds as said_seconds

_SLOWEST_STOP = 2.0
"""Seconds in which a stopped download must have ended."""
_PATIENCE = 20.0
"""Seconds for a download's first bytes."""
_POLL = 0.05
"""Seconds between two looks whether a download has ended."""
_STATUS: dict[str, Status] = {"ready": "ok", "starting": "note", "broken": "problem"}


def default_model(studio: Studio) -> Iterator[Finding]:
    """The model that the page opens with here."""
    spec, reason = studio.default_model()
    message = Message("The page opens with {model}: {reason}", model=spec.title_message, reason=reason)
    yield Finding("default model", "ok", message, {"model": spec.name})


def models(studio: Studio) -> Iterator[Finding]:
    """For each model whether it is here, where its weights would lie, and what its VAE would be run with, and why."""
    listing = hub_listing if hub_answers() else local_listing
    for spec in studio.models.values():
        if not spec.available:
            continue
        side, here = spec.native_size, studio.is_here(spec)
        stages = {}
        for direction in DIRECTIONS:
            request = StageRequest(direction, spec, side, side, VaeOptions("auto"))
            first = studio.planner.candidates(request)[0]
            stages[direction] = (first.mode, first.reason)
        state = studio.planner.device_state(spec)
        # Of what is not here, as the hub stores it.
        itemsize = studio.loader.dtype(spec).itemsize
        sizes = weight_bytes(spec, ["denoiser"], listing, itemsize)
        offload, placing = (None, Message("")) if sizes is None else studio.loader.plan_offload(spec, sizes)
        figures = {
            "downloaded": here,
            "weight_bytes": sizes,
            "low_memory": None if offload is None else offload.low_memory,
            "placing": str(placing),
            "dtype": state.dtype,
            "device": state.type,
            "side": side,
            "modes": {direction: mode for direction, (mode, _) in stages.items()},
            "reasons": {direction: str(reason) for direction, (_, reason) in stages.items()},
        }
        values = {
            "model": spec.title_message,
            "side": side,
            "dtype": state.dtype,
            "mode": mode_name(stages["decode"][0]),
            "reason": stages["decode"][1],
        }
        message = (
            Message("{model}: on this computer. At {side} pixels, {dtype}, VAE {mode}. {reason}", **values)
            if here
            else Message("{model}: not downloaded. At {side} pixels, {dtype}, VAE {mode}. {reason}", **values)
        )
        fits = sizes is None or offload is not None
        yield Finding(f"model: {spec.name}", "ok" if fits else "note", join(message, placing), figures)


def a_download_stops(
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
    end, seen, asked, failures = threading.Event(), list[Downloading](), list[float](), list[Message]()

    def see(event: Downloading) -> None:
        seen.append(event)
        if event.done > seen[0].done and not end.is_set():
            asked.append(time.monotonic())
            end.set()

    def fetch() -> None:
        try:
            studio.loader.fetch(spec, ["VAE"], see, end)
        except Cancelled:
            pass  # by `end`
        except LatentRelayError as error:
            failures.append(error.full_message)

    begun, thread = time.monotonic(), threading.Thread(target=fetch, name="doctor-download", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if (stop is not None and stop.is_set()) or time.monotonic() - begun > patience:
            end.set()
    raise_if_stopped(stop)
    took = time.monotonic() - asked[0] if asked else None
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
            "Stopping a download took {seconds}, which is too long.", seconds=said_seconds(took)
        )
        yield Finding("download", "problem", message, figures)
    else:
        message = Message("A download began, and stopping it took {seconds}.", seconds=said_seconds(took))
        yield Finding("download", "ok", message, figures)


def endpoints(studio: Studio) -> Iterator[Finding]:
    """Whether each endpoint that the owner configured answers as it should, to a tiny picture."""
    settings = studio.settings
    if not settings.endpoints:
        yield Finding("endpoints", "ok", Message("No endpoint is configured; every stage runs here."))
    for name in settings.endpoints:
        spec = studio.find_model(name)
        for direction in DIRECTIONS:
            url = settings.configured_endpoints(spec).of(direction)
            if url is None:
                continue
            found = studio.preflight(name, direction, VaeOptions("remote"))
            if found is None:
                continue
            host = display_host(url)
            figures = {"host": host, "status": found.status, "latency": found.latency}
            message = Message(
                "{model}, {host}: {answer}",
                model=spec.title_message,
                host=literal(host),
                answer=found.message,
            )
            yield Finding(f"endpoint: {name}, {direction}", _STATUS[found.status], message, figures)

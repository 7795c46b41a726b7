"""Where work would run: each model on this machine and why, and the endpoints that the owner configured."""

from __future__ import annotations

from collections.abc import Iterator

from backend.device.availability import hub_answers
from backend.device.hub import hub_listing, local_listing, weight_bytes
from backend.doctor.finding import Finding, Status
from backend.job import VaeOptions
from backend.message import Message, join, literal, mode_name
from backend.placement.fit import DIRECTIONS
from backend.remote.endpoints import display_host
from backend.request import StageRequest
from backend.studio import Studio

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

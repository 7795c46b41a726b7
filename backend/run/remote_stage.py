"""A VAE stage at an endpoint: nothing here needs the device, and nobody holds it meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.device.measure import memory_kind
from backend.events import StageStarted, Waiting
from backend.job import VaeOptions
from backend.message import Message, join, literal
from backend.models import ModelSpec
from backend.placement.choose import Candidate
from backend.remote import endpoints
from backend.report import Cost, Direction, StageReport
from backend.request import StageRequest
from backend.run.context import ExecutionContext, Notify, ignore

if TYPE_CHECKING:
    import torch

    from backend.remote.preflight import Preflight

log = logging.getLogger(__name__)

REMOTE = VaeOptions("remote")


def run_remote(
    request: StageRequest,
    candidate: Candidate,
    context: ExecutionContext,
    stop: threading.Event | None = None,
    notify: Notify = ignore,
) -> tuple[torch.Tensor, StageReport]:
    """Run the stage at its endpoint. Memory is not measured: what is in use here meanwhile is other jobs'.

    Raises:
        UserError: no endpoint serves it. RemoteError: the endpoint could not do it. Cancelled: `stop` was set.
    """
    assert request.tensor is not None, "a forecast is not run"
    spec, options = request.spec, request.options
    endpoint = endpoints.require(spec, request.direction, options, context.settings, context.self_url)
    vae = endpoints.client(
        endpoint,
        spec,
        options,
        context.settings,
        stop,
        lambda message: notify(Waiting(message)),
        request.run_id,
    )
    where = literal(endpoints.display_host(endpoint.url))
    notify(StageStarted(request.direction, "remote", candidate.reason, where))
    started = time.perf_counter()
    given = request.tensor.cpu()
    output = vae.encode(given) if request.direction == "encode" else vae.decode(given)
    seconds = time.perf_counter() - started
    dtype, overflowed = vae.computed or (None, ())
    report = StageReport(
        stage=request.direction,
        mode="remote",
        reason=join(candidate.reason, _overflowed_there(overflowed, dtype)),
        where=where,
        cost=Cost(seconds, memory_kind(context.loader.device)),
        traffic=vae.traffic,
        dtype=dtype,
        requested_mode=options.mode,
        avoided_bytes=_avoided_bytes(spec, context),
        run_id=request.run_id,
    )
    return output, report


def _overflowed_there(overflowed: tuple[str, ...], dtype: str | None) -> Message:
    if not overflowed:
        return Message("")
    return Message(
        "At the endpoint {narrow} overflowed, so it computed again in {dtype}.",
        narrow=join_with_and(overflowed),
        dtype=dtype,
    )


def join_with_and(names: tuple[str, ...]) -> Message:
    """`float16`, or `float16 and bfloat16`."""
    message = literal(names[0])
    for name in names[1:]:
        message = Message("{first} and {second}", first=message, second=name)
    return message


def _avoided_bytes(spec: ModelSpec, context: ExecutionContext) -> int | None:
    """Weights that need not be here as long as others do this model's VAE stages; None if unknown."""
    from backend.vae.architecture import vae_bytes

    if context.loader.has_vae(spec):
        return 0
    try:
        return vae_bytes(spec, context.loader.dtype(spec))
    except (OSError, ValueError, TypeError) as error:
        # A folder of one's own whose config says something else.
        log.info("The size of %s's VAE is unknown: %s", spec.name, error)
        return None


def check_remote(
    spec: ModelSpec,
    direction: Direction,
    context: ExecutionContext,
    options: VaeOptions = REMOTE,
    stop: threading.Event | None = None,
    notify: Notify = ignore,
    run_id: str | None = None,
) -> Preflight | None:
    """Whether the endpoint of that direction would work, found out with a tiny picture; None if it is this very app.

    Raises:
        UserError: no endpoint is known. Cancelled: `stop` was set.
    """
    from backend.remote.preflight import preflight

    endpoint = endpoints.require(spec, direction, options, context.settings, context.self_url)
    if endpoint.is_self:
        return None
    vae = endpoints.client(
        endpoint, spec, options, context.settings, stop, lambda message: notify(Waiting(message)), run_id
    )
    found = preflight(vae, direction)
    if not endpoint.is_default:
        return found
    warning = Message(
        "It is a public endpoint that nobody configured here: what this stage sends goes to {host}.",
        host=endpoints.display_host(endpoint.url),
    )
    return replace(found, message=join(found.message, warning))


def runs_elsewhere(request: StageRequest, context: ExecutionContext) -> bool:
    """Whether the stage would leave this machine's device alone."""
    if context.planner.candidates(request)[0].mode != "remote":
        return False
    endpoint = endpoints.resolve(
        request.spec, request.direction, request.options, context.settings, context.self_url
    )
    return endpoint is not None and not endpoint.is_self

"""One VAE stage from request to report: choose the mode, wait for the device, run, measure, fall back if need be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.measure import Meter, device_name, empty_device_cache, free_bytes
from backend.device.precision import copy_in_dtype, overflow_message, retry_with_upcast
from backend.errors import LatentRelayError, OutOfMemoryError, RemoteError
from backend.events import StageStarted, Waiting
from backend.message import Message, join, mode_name
from backend.placement.choose import SAFE_SHARE, Candidate
from backend.report import StageReport
from backend.request import StageRequest
from backend.run.context import ExecutionContext, Notify, ignore, stoppable, waiting
from backend.run.remote_stage import run_remote

if TYPE_CHECKING:
    import torch

    from backend.vae.base import LocalVAE

log = logging.getLogger(__name__)


def run_stage(
    request: StageRequest,
    context: ExecutionContext,
    stop: threading.Event | None = None,
    notify: Notify = ignore,
) -> tuple[torch.Tensor, StageReport]:
    """The stage's output (decode: float32 image; encode: scaled latents) on the CPU, and its report.

    Only "auto" falls back, to its next candidate after an out-of-memory error or a failed endpoint, and the report
    says so.

    Raises:
        LatentRelayError: as the mode raised it, with the run's id; the caller still holds its input.
    """
    request.options.checked()
    tried: list[str] = []
    fallback = Message("")

    def next_candidate() -> Candidate | None:
        """Asked anew each time: the memory that is free decides, and it changes while others use the device."""
        left = [one for one in context.planner.candidates(request) if one.mode not in tried]
        return Candidate(left[0].mode, join(left[0].reason, fallback)) if left else None

    while candidate := next_candidate():
        try:
            return _run_candidate(request, candidate, next_candidate, tried, context, stop, notify)
        except LatentRelayError as error:
            error.run_id = request.run_id
            log.info(
                "%s %s failed: %s",
                tried[-1] if tried else candidate.mode,
                request.direction,
                error,
                extra={"run_id": request.run_id, "code": error.code},
            )
            if not isinstance(error, OutOfMemoryError | RemoteError) or next_candidate() is None:
                raise
            fallback = _why_not(tried[-1], error)
        # Only now, when the error is gone and holds nothing any more.
        empty_device_cache(context.loader.device)
    raise AssertionError("there is always a candidate")


def _why_not(mode: str, error: LatentRelayError) -> Message:
    if isinstance(error, OutOfMemoryError):
        return Message("“{mode}” was tried first and ran out of memory.", mode=mode_name(mode))
    return join(Message("“{mode}” was tried first and failed.", mode=mode_name(mode)), error.message)


def _run_candidate(
    request: StageRequest,
    candidate: Candidate,
    next_candidate: Callable[[], Candidate | None],
    tried: list[str],
    context: ExecutionContext,
    stop: threading.Event | None,
    notify: Notify,
) -> tuple[torch.Tensor, StageReport]:
    """Run `candidate` or, once the device is free, what is the best by then; its mode is added to `tried`."""
    raise_if_stopped(stop)
    loader = context.loader
    if candidate.mode != "remote":

        def compute() -> tuple[torch.Tensor, StageReport] | None:
            nonlocal candidate
            candidate = next_candidate() or candidate
            if candidate.mode == "remote":
                return None  # nobody holds the device while another machine works
            tried.append(candidate.mode)
            return _run_here(request, candidate, context, stop, notify)

        # A download takes minutes and no device, so nobody waits for it but this job.
        part = "tiny VAE" if candidate.mode == "tiny" else "VAE"
        loader.fetch(request.spec, part, stoppable(notify, stop))
        done = loader.queue.run(compute, stop, lambda ahead: notify(waiting(ahead)))
        if done is not None:
            return done
    tried.append(candidate.mode)
    return run_remote(request, candidate, context, stop, notify)


def _run_here(
    request: StageRequest,
    candidate: Candidate,
    context: ExecutionContext,
    stop: threading.Event | None,
    notify: Notify,
) -> tuple[torch.Tensor, StageReport]:
    """On the device's thread: load, compute, in a wider dtype if one overflows, and measure."""
    loader, spec, mode = context.loader, request.spec, candidate.mode
    tiny = mode == "tiny"
    if not loader.has_vae(spec, tiny):
        loading = Message("Loading the VAE of {model}", model=spec.title)
        if tiny:
            loading = Message("Loading the tiny VAE of {model}", model=spec.title)
        notify(Waiting(loading))
    module = loader.vae(spec, tiny)
    where = device_name(loader.device)
    notify(StageStarted(request.direction, mode, candidate.reason, where))
    device_state = context.planner.device_state(spec)
    with Meter(loader.device) as meter:
        output, dtype, overflowed = retry_with_upcast(
            lambda dtype: _mode(request, mode, module, dtype, stop), lambda vae: _compute(vae, request, stop)
        )
    if not overflowed:  # else the seconds are those of several runs
        context.planner.costs.learn(request, mode, device_state, meter.cost.seconds, meter.cost.added_bytes)
    report = StageReport(
        stage=request.direction,
        mode=mode,
        reason=join(candidate.reason, *map(overflow_message, overflowed, (*overflowed[1:], dtype))),
        where=where,
        cost=meter.cost,
        dtype=dtype,
        requested_mode=request.options.mode,
        run_id=request.run_id,
    )
    return output, report


def _mode(
    request: StageRequest, mode: str, module: Any, dtype: torch.dtype | None, stop: threading.Event | None
) -> LocalVAE:
    """The VAE mode around `module`, or around a copy of it in another dtype."""
    from backend.vae.modes import ModeOptions, local_vae

    options = ModeOptions(
        request.options.tile_size,
        request.options.tile_overlap,
        stop,
        max_memory=round(free_bytes(next(module.parameters()).device) * SAFE_SHARE),
    )
    module = module if dtype is None else copy_in_dtype(module, dtype)
    return local_vae(mode, module, request.spec.latents, options)


def _compute(vae: LocalVAE, request: StageRequest, stop: threading.Event | None) -> torch.Tensor:
    assert request.tensor is not None, "a forecast is not run"
    with interruptible(vae.module, stop):
        output = vae.encode(request.tensor) if request.direction == "encode" else vae.decode(request.tensor)
        return output.cpu()

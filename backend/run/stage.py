"""One VAE stage from request to report: choose the mode, wait for the device, run, measure, fall back if need be."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from backend import images
from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.loading import Part
from backend.device.measure import (
    SAFE_SHARE,
    Meter,
    current_device,
    device_name,
    empty_device_cache,
    free_bytes,
)
from backend.device.precision import copy_in_dtype, overflow_message, retry_with_upcast
from backend.errors import LatentRelayError, OutOfMemoryError, RemoteError
from backend.events import StageStarted, Waiting
from backend.message import Message, join, mode_name
from backend.placement.choose import Candidate
from backend.placement.planner import Planner
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
    """The stage's output (decode: float32 image or uint8 picture; encode: scaled latents) and its report. The output is
    on the CPU, unless the request says that it `stays`.

    Only "auto" falls back, to its next candidate after an out-of-memory error or a failed endpoint, and the report
    says so.

    Raises:
        LatentRelayError: as the mode raised it, with the run's id; the caller still holds its input.
    """
    request.options.checked()
    attempts = _Attempts(request, context.planner)
    while True:
        try:
            return _run_next(attempts, context, stop, notify)
        except LatentRelayError as error:
            error.run_id = request.run_id
            fields = {"run_id": request.run_id, "code": error.code}
            log.info("%s %s failed: %s", attempts.latest, request.direction, error, extra=fields)
            if not isinstance(error, OutOfMemoryError | RemoteError) or attempts.candidate() is None:
                raise
            attempts.failure = _why_not(attempts.latest, error)
        # Only now, when the error is gone and holds nothing any more.
        empty_device_cache(context.loader.device)


class _Attempts:
    """The modes that were tried, and which is next."""

    def __init__(self, request: StageRequest, planner: Planner) -> None:
        self.request = request
        self.failure = Message("")
        """Why the latest one did not do."""
        self._planner = planner
        self._tried: list[str] = []

    @property
    def latest(self) -> str:
        return self._tried[-1] if self._tried else self.request.options.mode

    def candidate(self) -> Candidate | None:
        """Asked anew each time: the memory that is free decides, and others use it meanwhile. None if none is left."""
        for one in self._planner.candidates(self.request):
            if one.mode not in self._tried:
                return Candidate(one.mode, join(one.reason, self.failure))
        return None

    def begin(self, candidate: Candidate) -> None:
        self._tried.append(candidate.mode)


def _why_not(mode: str, error: LatentRelayError) -> Message:
    if isinstance(error, OutOfMemoryError):
        return Message("“{mode}” was tried first and ran out of memory.", mode=mode_name(mode))
    return join(Message("“{mode}” was tried first and failed.", mode=mode_name(mode)), error.message)


def _run_next(
    attempts: _Attempts, context: ExecutionContext, stop: threading.Event | None, notify: Notify
) -> tuple[torch.Tensor, StageReport]:
    """The next candidate's output and report; one that computes here is chosen anew once the device is free."""
    raise_if_stopped(stop)
    loader, request = context.loader, attempts.request
    first = attempts.candidate()
    assert first is not None, "run_stage asks for no more than there are"
    candidate = first
    if candidate.mode != "remote":
        # A download takes minutes and no device, so nobody waits for it but this job.
        part: Part = "tiny VAE" if candidate.mode == "tiny" else "VAE"
        loader.fetch(request.spec, part, stoppable(notify, stop))

        def compute() -> tuple[torch.Tensor, StageReport] | Candidate:
            best = attempts.candidate() or first
            if best.mode == "remote":
                return best  # nobody holds the device while another machine works
            attempts.begin(best)
            return _run_here(request, best, context, stop, notify)

        outcome = loader.queue.run(compute, stop, lambda ahead: notify(waiting(ahead)))
        if not isinstance(outcome, Candidate):
            return outcome
        candidate = outcome
    attempts.begin(candidate)
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
        loading = Message("Loading the VAE of {model}", model=spec.title_message)
        if tiny:
            loading = Message("Loading the tiny VAE of {model}", model=spec.title_message)
        notify(Waiting(loading))
    module, made_room = loader.load_vae(spec, tiny)
    where = device_name(loader.device)
    notify(StageStarted(request.direction, mode, candidate.reason, where))
    device_state = context.planner.device_state(spec)
    used: list[LocalVAE] = []

    def load(dtype: torch.dtype | None) -> LocalVAE:
        used.clear()  # the copy that overflowed, too, goes before the next is made
        used.append(_mode(request, mode, module, dtype, stop))
        return used[-1]

    with current_device(loader.device), Meter(loader.device) as meter:
        output, dtype, overflowed = retry_with_upcast(load, lambda vae: _compute(vae, request, stop))
    if overflowed:
        loader.upcast(spec, "tiny VAE" if tiny else "VAE", used[-1].module)
    if not overflowed:  # else the seconds are those of several runs
        context.planner.costs.learn(request, mode, device_state, meter.cost.seconds, meter.cost.added_bytes)
    report = StageReport(
        stage=request.direction,
        mode=mode,
        reason=join(
            candidate.reason, made_room, *map(overflow_message, overflowed, (*overflowed[1:], dtype))
        ),
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
        if request.as_picture:
            output = images.to_pixels(output)
        return output if request.stays else output.cpu()

"""ZeroGPU Spaces: a graphics card that is lent for the length of one decorated call, in a forked process.

There `spaces.GPU` runs the decorated function in a fork of this process: its arguments and results are pickled, what
it finds loaded is what was loaded before the fork, and the parent never computes on the card. So a whole job is one
call that yields its events, and a single VAE stage is one call; neither takes anything but plain data. Errors travel as
values, because `spaces` tells of an exception only by its class. Everywhere else nothing here is used.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from backend.device.interrupt import raise_if_stopped
from backend.device.queue import DeviceQueue
from backend.errors import BadSettingError, BusyError, Cancelled, LatentRelayError
from backend.events import Event, Failed, InBatch, StageDone
from backend.job import ResolvedJob, VaeOptions
from backend.message import literal
from backend.models import LatentSpec, ModelSpec
from backend.placement.shapes import multiply_adds
from backend.report import StageReport
from backend.request import StageRequest, decode_request, encode_request
from backend.run.context import Notify, ignore
from backend.run.executor import LocalExecutor
from backend.run.stream import stream

if TYPE_CHECKING:
    import torch

    from backend.vae.base import VAE

E = TypeVar("E")
T = TypeVar("T")

SpacesGpu = Callable[..., Callable[[T], T]]
"""`spaces.GPU`: called with `duration=`, a number of seconds or a function of the call's arguments."""

SHORTEST, USUAL, LONGEST = 10, 60, 120
"""Seconds that are asked for. A visitor's quota is charged by them; an anonymous visitor's whole day is the longest:
over the usual there is no margin, and what would take longer than the longest is not begun."""
_ARRIVAL = 6.0
"""Seconds for the fork and for moving the weights onto the card."""
_REMOTE = 15.0
"""Seconds for a stage elsewhere, during which the card waits."""
_MARGIN = 1.5
_VAE_RATE = 5e12
"""Multiply-adds a second. Low for a card of that kind: a call that ran out of its time would be lost."""
_PIXEL_STEPS = {"sd": 4e6, "sdxl": 5e6, "flux": 1e6}
"""Pixels times steps a second, by family, until the first job has shown better; as low, for the same reason."""


def spaces_gpu(environ: Mapping[str, str]) -> SpacesGpu[Any] | None:
    """`spaces.GPU` on a ZeroGPU Space, None elsewhere. To be called before torch is imported, because `spaces` says so.

    Raises:
        ImportError: on such a Space without the package `spaces`, which comes with it.
    """
    if environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    return importlib.import_module("spaces").GPU


class ZeroGpuExecutor:
    """The decorated calls of one app; to be made while the app starts, where `spaces` looks for them.

    `local` runs a job or a stage in whichever process it is called.
    """

    def __init__(self, gpu: SpacesGpu[Any], local: LocalExecutor) -> None:
        self.local = local
        self.queue = DeviceQueue("zero-gpu")
        """Not the one that computes, which belongs to the card's process."""
        self._job_call = gpu(duration=self.job_seconds)(self._job)
        self._stage_call = gpu(duration=self.stage_seconds)(self._stage)

    # -- in this process

    def load(self, spec: ModelSpec) -> None:
        self.local.load_now(spec)  # `spaces` stands in for the card on the main thread only
        # `spaces` deletes the files of what it has packed, and its process for the card serves many visitors.
        self.local.context.loader.keep()

    def stage(
        self, request: StageRequest, stop: threading.Event | None = None, notify: Notify = ignore
    ) -> tuple[torch.Tensor, StageReport]:
        request.options.checked()
        if request.options.mode == "remote":
            return self.local.stage(request, stop, notify)
        answer = self._stage_call(request)
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    def job(
        self, job: ResolvedJob, stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[Event | None]:
        """Like `LocalExecutor.job`, but stopping takes up to one step. What `spaces` raises, such as a quota that is
        used up, comes as it is.

        Raises:
            BadSettingError: it would take longer than a card is lent for.
        """
        self.job_seconds(job)
        return _beating(self._events(job, stop), stop, heartbeat)

    def _events(self, job: ResolvedJob, stop: threading.Event) -> Iterator[Event]:
        events = self._job_call(job)
        try:
            for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, StageDone) and event.report.stage == "denoise":
                    # What the forked process learned is lost with it.
                    self.local.context.planner.learn_denoise(job, event.report)
                yield event
                raise_if_stopped(stop)
        finally:
            events.close()

    def batch(
        self, jobs: Sequence[ResolvedJob], stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[InBatch | None]:
        """One after the other: the card would have to be kept while others wait."""
        return _beating(self._batch(jobs, stop), stop, heartbeat)

    def _batch(self, jobs: Sequence[ResolvedJob], stop: threading.Event) -> Iterator[InBatch]:
        for index, job in enumerate(jobs):
            try:
                for event in self._events(job, stop):
                    yield InBatch(index, event)
            except Cancelled:
                raise
            except LatentRelayError as error:
                yield InBatch(index, Failed(error))

    def vae(self, spec: ModelSpec, *, low_memory: bool = False) -> VAE:
        return ZeroGpuVae(spec, self, "tiled" if low_memory else "whole")

    def job_seconds(self, job: ResolvedJob) -> int:
        """What to ask for: the forecast of all three stages, with a margin, within bounds."""
        denoising = self.local.context.planner.expect_denoise(job)
        if denoising is None:
            denoising = denoise_seconds(job)
        ends = sum(
            _REMOTE if options.mode == "remote" else vae_seconds(job.spec, job.width, job.height)
            for options in (job.encode, job.decode)
        )
        return bounded(denoising + ends)

    def stage_seconds(self, request: StageRequest) -> int:
        batch = 1 if request.tensor is None else request.tensor.shape[0]
        return bounded(batch * vae_seconds(request.spec, request.width, request.height))

    # -- in the card's process

    def _job(self, job: ResolvedJob) -> Iterator[Event | Failed]:
        try:
            yield from filter(None, self.local.job(job, threading.Event()))
        except LatentRelayError as error:
            yield Failed(error)

    def _stage(self, request: StageRequest) -> tuple[torch.Tensor, StageReport] | Failed:
        try:
            return self.local.stage(request)
        except LatentRelayError as error:
            return Failed(error)


def _beating(events: Iterator[E], stop: threading.Event, heartbeat: float | None) -> Iterator[E | None]:
    """The events, from a thread of their own if there is to be a sign of life between them."""
    if heartbeat is None:
        return events

    def work(_: threading.Event, notify: Callable[[E], None]) -> None:
        for event in events:
            notify(event)

    return stream(work, stop, heartbeat)


def bounded(seconds: float) -> int:
    """What to ask for, for work that takes `seconds`.

    Raises:
        BadSettingError: it would take longer than a card is lent for.
    """
    needed = math.ceil(_ARRIVAL + seconds)
    if needed > LONGEST:
        raise BadSettingError(
            "This would take about {seconds} seconds of the Space's graphics card, "
            "which is lent for {longest} at most.",
            "Please choose fewer steps or a smaller picture.",
            seconds=needed,
            longest=LONGEST,
        )
    with_margin = math.ceil(_ARRIVAL + _MARGIN * seconds)
    return max(SHORTEST, min(with_margin, max(USUAL, needed)))


def vae_seconds(spec: ModelSpec, width: int, height: int) -> float:
    """Of a decode, the longer of the two."""
    return multiply_adds(spec.vae_block_out_channels, "decode", width, height) / _VAE_RATE


def denoise_seconds(job: ResolvedJob) -> float:
    passes = 2 if job.guidance_scale > 1 else 1
    pixel_steps = job.steps_to_run * job.width * job.height * passes
    return pixel_steps / _PIXEL_STEPS.get(job.spec.family, min(_PIXEL_STEPS.values()))


class ZeroGpuVae:
    """A VAE that computes on a lent card, for the app's own endpoint."""

    mode: ClassVar[str] = "whole"

    def __init__(self, model: ModelSpec, executor: ZeroGpuExecutor, mode: str) -> None:
        self.spec: LatentSpec = model.latents
        self._model = model
        self._executor = executor
        self._options = VaeOptions(mode)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Raises BusyError: no card is lent now, for the reason that `spaces` gives."""
        return self._stage(encode_request(self._model, image, self._options))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Raises BusyError: no card is lent now, for the reason that `spaces` gives."""
        return self._stage(decode_request(self._model, latents, self._options))

    def _stage(self, request: StageRequest) -> torch.Tensor:
        try:
            return self._executor.stage(request)[0]
        except Exception as error:
            # `gradio.Error`, which only the page knows what to do with; the client of an endpoint gets its sentence.
            if type(error).__module__.partition(".")[0] not in ("gradio", "spaces"):
                raise
            sentence = str(getattr(error, "message", error))
            raise BusyError(literal(sentence)) from error

"""Who runs a job or a stage: this process, or a graphics card that is lent call by call. Chosen once, in `Studio`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from backend.device.measure import return_freed_ram
from backend.device.queue import DeviceQueue
from backend.errors import BusyError, ModelUnavailableError
from backend.events import Event, InBatch
from backend.job import ResolvedJob
from backend.models import ModelSpec
from backend.report import StageReport
from backend.request import StageRequest
from backend.run.batch import run_batch
from backend.run.context import ExecutionContext, Notify, ignore
from backend.run.img2img import run_job
from backend.run.job_queue import JobQueue
from backend.run.model_downloads import PARTS
from backend.run.stage import run_stage
from backend.run.stream import stream

if TYPE_CHECKING:
    import torch

    from backend.vae.base import VAE


class Executor(Protocol):
    """Thread-safe. Setting `stop`, or closing a generator, cancels. With a `heartbeat` a generator yields None after so
    many seconds without an event."""

    queue: DeviceQueue
    """What `vae` is used on."""

    def load(self, spec: ModelSpec) -> None:
        """Load a model before it is asked for. Raises LatentRelayError: it cannot be had."""

    def stage(
        self, request: StageRequest, stop: threading.Event | None = None, notify: Notify = ignore
    ) -> tuple[torch.Tensor, StageReport]:
        """One VAE stage: its output on the CPU, and its report. Raises LatentRelayError as the mode did."""
        ...

    def job(
        self, job: ResolvedJob, stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[Event | None]:
        """The events of a job; the last is a Result. Raises LatentRelayError as the failing stage did."""
        ...

    def batch(
        self, jobs: Sequence[ResolvedJob], stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[InBatch | None]:
        """The events of several jobs; a picture that fails gives a Failed, and the others go on."""
        ...

    def vae(self, spec: ModelSpec, *, low_memory: bool = False) -> VAE:
        """The model's VAE for this app's endpoint, whole or in tiles; called on the device's thread.

        Raises:
            BusyError: it is being downloaded. ModelUnavailableError: it cannot be had.
        """
        ...


T = TypeVar("T")
Asked = TypeVar("Asked")

RETURN_SECONDS = 30.0
"""Freed memory goes back to the system that often: each time costs the next job a little."""


class LocalExecutor:
    """Runs everything in this process."""

    def __init__(self, context: ExecutionContext, job_queue: JobQueue) -> None:
        self._returned_at = time.monotonic()
        self.context = context
        self.job_queue = job_queue
        self.queue = context.loader.queue

    def load(self, spec: ModelSpec) -> None:
        loader = self.context.loader
        loader.fetch(spec, PARTS, ignore)  # downloads hold nobody up; loading may free what others use
        loader.queue.run(lambda: self.load_now(spec))

    def load_now(self, spec: ModelSpec) -> None:
        """On the calling thread."""
        self.context.loader.vae(spec)
        self.context.loader.denoiser(spec)

    def stage(
        self, request: StageRequest, stop: threading.Event | None = None, notify: Notify = ignore
    ) -> tuple[torch.Tensor, StageReport]:
        return run_stage(request, self.context, stop, notify)

    def job(
        self, job: ResolvedJob, stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[Event | None]:
        return self._stream(run_job, job, stop, heartbeat)

    def batch(
        self, jobs: Sequence[ResolvedJob], stop: threading.Event, heartbeat: float | None = None
    ) -> Iterator[InBatch | None]:
        return self._stream(run_batch, jobs, stop, heartbeat)

    def _stream(
        self,
        run: Callable[[Asked, ExecutionContext, JobQueue, threading.Event, Callable[[T], None]], None],
        asked: Asked,
        stop: threading.Event,
        heartbeat: float | None,
    ) -> Iterator[T | None]:
        def work(stop: threading.Event, notify: Callable[[T], None]) -> None:
            try:
                run(asked, self.context, self.job_queue, stop, notify)
            finally:
                self._return_freed_ram()

        return stream(work, stop, heartbeat)

    def _return_freed_ram(self) -> None:
        if time.monotonic() - self._returned_at > RETURN_SECONDS:
            self._returned_at = time.monotonic()
            return_freed_ram()

    def vae(self, spec: ModelSpec, *, low_memory: bool = False) -> VAE:
        from backend.vae.modes import local_vae

        self._refuse_until_here(spec)
        module, _ = self.context.loader.load_vae(spec)
        return local_vae("tiled" if low_memory else "whole", module, spec.latents)

    def _refuse_until_here(self, spec: ModelSpec) -> None:
        """The device's thread waits for no download: the client is told to come back, as while a server starts.

        Raises:
            BusyError: the VAE is on its way now. ModelUnavailableError: the last try to fetch it failed.
        """
        downloads, parts = self.context.downloads, PARTS[:1]
        found = downloads.state(spec, parts)
        if found.status == "here":
            return
        self.context.loader.raise_if_offline(spec)
        downloads.start(spec, "endpoint", parts)
        if found.failure is not None:
            raise ModelUnavailableError(found.failure)
        raise BusyError(
            "The VAE of {model} is being downloaded.",
            "Please try again in a minute.",
            retry_after=math.ceil(found.seconds_left or 30),
            model=spec.title_message,
        )

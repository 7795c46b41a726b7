"""Image to image in three stages, as a generator of events.

Each job has a thread of its own, because diffusers reports steps by calling back while the page wants to ask for
them one by one; what it computes here it hands to the device's thread (`turns.py`), what it asks of other machines
it does itself. Closing the generator, or setting `stop`, ends the run inside the current step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from backend import families, images
from backend.device import precision
from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.loading import Loader
from backend.device.measure import Meter, device_name, empty_device_cache
from backend.errors import Cancelled, LatentRelayError, NonFiniteError, OutOfMemoryError, RemoteError
from backend.events import Event, Failed, InBatch, Result, StageDone, StageStarted, Step, Waiting
from backend.job import SCHEDULERS, Job, ResolvedJob
from backend.latents import preview
from backend.lazy_import import import_module_locked
from backend.report import StageReport
from backend.run.job_queue import JobQueue
from backend.run.overlap import pipelined
from backend.run.stage import Notify, Stages, Work, interruptible_notes, turn_message

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

E = TypeVar("E")

_PREVIEW_SECONDS = 0.2
"""Shortest time between two previews: a person sees no more, and small models step faster than that."""


def run(
    job: Job,
    stages: Stages,
    loader: Loader,
    stop: threading.Event | None = None,
    line: JobQueue | None = None,
) -> Iterator[Event]:
    """Run `job`, once `line` lets it in; the last event is a Result.

    Every finished stage's latents are in its StageDone event, so a later failure loses nothing.

    Raises:
        LatentRelayError: bad settings (before anything runs), Cancelled, BusyError, or what the failing stage raised.
    """
    resolved = job.resolved()
    line = line or JobQueue()

    def work(stop: threading.Event, notify: Notify) -> None:
        try:
            with line.enter(stop, lambda ahead: notify(turn_message(ahead))):
                _work(resolved, stages, loader, stop, notify)
        except LatentRelayError as error:
            _tell_failure(resolved, error)
            raise

    return _events(work, stop or threading.Event())


def run_batch(
    jobs: Sequence[Job],
    stages: Stages,
    loader: Loader,
    stop: threading.Event | None = None,
    line: JobQueue | None = None,
) -> Iterator[InBatch]:
    """Run `jobs` one after another; where they decode elsewhere, picture n is decoded while n + 1 is painted here.

    A picture that fails gives a `Failed` in place of its Result, and the others go on. Only stopping ends all. In the
    `line` they are one.

    Raises:
        LatentRelayError: bad settings of any (before anything runs), Cancelled, or BusyError.
    """
    resolved = [job.resolved() for job in jobs]
    line = line or JobQueue()

    def work(stop: threading.Event, notify: Callable[[InBatch], None]) -> None:
        with line.enter(stop, lambda ahead: notify(InBatch(0, turn_message(ahead)))):
            _work_batch(resolved, stages, loader, stop, notify)

    return _events(work, stop or threading.Event())


def one_by_one(
    jobs: Sequence[Job],
    run_one: Callable[[Job, threading.Event | None], Iterator[Event]],
    stop: threading.Event | None,
) -> Iterator[InBatch]:
    """A batch whose jobs are run by `run_one`, without overlapping."""
    for index, job in enumerate(jobs):
        try:
            for event in run_one(job, stop):
                yield InBatch(index, event)
        except Cancelled:
            raise
        except LatentRelayError as error:
            yield InBatch(index, Failed(error))


def _events(
    work: Callable[[threading.Event, Callable[[E], None]], None], stop: threading.Event
) -> Iterator[E]:
    """Run `work(stop, notify)` in a thread and yield what it notifies; its error is raised here."""
    events: queue.SimpleQueue[E | _Over] = queue.SimpleQueue()

    def target() -> None:
        try:
            work(stop, events.put)
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer, not swallowed
            events.put(_Over(error))
        else:
            events.put(_Over())

    thread = threading.Thread(target=target, name="img2img", daemon=True)
    thread.start()
    try:
        while not isinstance(event := events.get(), _Over):
            yield event
        if event.error is not None:
            raise event.error
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class _Over:
    """The end of a run, and the error that ended it, if one did."""

    error: BaseException | None = None


class _Front:
    """When this machine was at work on pictures of a batch, for a decode behind to look back at."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._spans: deque[tuple[float, float]] = deque(maxlen=4)

    @contextmanager
    def working(self) -> Iterator[None]:
        self._began = began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            self._spans.append((began, time.monotonic()))

    def seconds_since(self, begin: float) -> float:
        """Of the time from `begin` until now, how much there was work."""
        now, began = time.monotonic(), self._began
        spans = [*self._spans] if began is None else [*self._spans, (began, now)]
        return sum(max(0.0, end - max(begin, start)) for start, end in spans)


@dataclass(frozen=True)
class _Painted:
    """A picture's latents after denoising, and what it took so far."""

    latents: torch.Tensor
    reports: tuple[StageReport, StageReport]


def _work(job: ResolvedJob, stages: Stages, loader: Loader, stop: threading.Event, notify: Notify) -> None:
    _decode(job, _encode_and_paint(job, stages, loader, stop, notify), stages, stop, notify)


def _work_batch(
    jobs: Sequence[ResolvedJob],
    stages: Stages,
    loader: Loader,
    stop: threading.Event,
    notify: Callable[[InBatch], None],
) -> None:
    front = _Front()

    def teller(index: int) -> Notify:
        return lambda event: notify(InBatch(index, event))

    def painted() -> Iterator[tuple[int, _Painted]]:
        for index, job in enumerate(jobs):
            made = None
            with front.working(), _spared(index, job, notify):
                made = index, _encode_and_paint(job, stages, loader, stop, teller(index))
            if made is not None:
                yield made

    def decode(made: tuple[int, _Painted]) -> None:
        index, done = made
        with _spared(index, jobs[index], notify):
            _decode(jobs[index], done, stages, stop, teller(index), front if behind else None)

    behind = len(jobs) > 1 and all(
        stages.runs_elsewhere(job.spec, "decode", job.width, job.height, job.job.decode) for job in jobs
    )
    for _ in pipelined(painted(), decode, stop) if behind else map(decode, painted()):
        raise_if_stopped(stop)


@contextmanager
def _spared(index: int, job: ResolvedJob, notify: Callable[[InBatch], None]) -> Iterator[None]:
    """An error in here is that picture's own, and does not end the batch; stopping does."""
    try:
        yield
    except Cancelled:
        raise
    except LatentRelayError as error:
        _tell_failure(job, error)
        notify(InBatch(index, Failed(error)))


def _encode_and_paint(
    job: ResolvedJob, stages: Stages, loader: Loader, stop: threading.Event, notify: Notify
) -> _Painted:
    picture = images.resize(images.to_rgb(job.job.image), job.width, job.height)
    encode = Work("encode", job.spec, images.to_tensor(picture), job.job.encode, job.run_id)
    latents, encoded = stages.run_here(encode, stop, notify)
    notify(StageDone(encoded, latents))

    if job.job.decode.mode == "remote" and job.steps_to_run:
        _look_ahead(job, stages, stop, notify)
    latents, denoised = denoise(job, latents, loader, stop, notify)
    stages.learn_painting(job, denoised)
    notify(StageDone(denoised, latents))
    return _Painted(latents, (encoded, denoised))


def _decode(
    job: ResolvedJob,
    painted: _Painted,
    stages: Stages,
    stop: threading.Event,
    notify: Notify,
    front: _Front | None = None,
) -> None:
    """The last stage and the result; `front` is what goes on here meanwhile, if anything does."""
    begin = time.monotonic()
    decode = Work("decode", job.spec, painted.latents, job.job.decode, job.run_id)
    pixels, report = stages.run_here(decode, stop, notify)
    if front is not None:
        report = _overlapped(report, front.seconds_since(begin))
    notify(StageDone(report))
    reports = (*painted.reports, report)
    notify(Result(images.to_image(pixels), painted.latents, reports, job.recipe()))
    seconds = {report.stage: round(report.cost.seconds, 3) for report in reports}
    log.info("img2img done", extra={**_told(job), "code": "done", "seconds": seconds})


def _told(job: ResolvedJob) -> dict[str, Any]:
    """What the log says of a run: no word of its prompt."""
    return {"run_id": job.run_id, "model": job.spec.name, "width": job.width, "height": job.height}


def _tell_failure(job: ResolvedJob, error: LatentRelayError) -> None:
    """Give the error its run's id, and the log a line with both."""
    error.run_id = job.run_id
    log.info("img2img ended: %s", error, extra={**_told(job), "code": error.code})


def _overlapped(report: StageReport, seconds: float) -> StageReport:
    seconds = min(seconds, report.cost.seconds)
    said = f"The next picture was being made here for {seconds:.1f} s of it." if seconds else ""
    return replace(report, reason=f"{report.reason} {said}".strip(), overlapped_seconds=seconds)


def _look_ahead(job: ResolvedJob, stages: Stages, stop: threading.Event, notify: Notify) -> None:
    """Before minutes of painting: would the chosen endpoint decode the result?

    Raises:
        RemoteError: it would not, with what was found. One that may just be waking up is only told of.
    """
    found = stages.preflight(job.spec, "decode", job.job.decode, stop, notify, job.run_id)
    if found is None or found.status == "ready":
        return
    if found.status == "broken":
        raise RemoteError(found.message, "Nothing was painted yet; choose another place to decode.")
    notify(Waiting(found.message))


def denoise(
    job: ResolvedJob, latents: torch.Tensor, loader: Loader, stop: threading.Event, notify: Notify
) -> tuple[torch.Tensor, StageReport]:
    """Scaled latents (1, C, h, w) through the model's img2img pipeline, on the CPU again, with a report.

    A run that overflows is started again in a wider number format, one that runs out of memory with less of the model
    on the device, and the report says so. The seed drives a CPU generator, so that the same job gives the same noise
    on every device.
    """
    device = loader.device
    where = device_name(device)
    if job.steps_to_run == 0:
        reason = "So little was to change that no step was needed."
        notify(StageStarted("denoise", "none", reason, where))
        with Meter(device) as meter:
            pass
        return latents, StageReport("denoise", "none", reason, where, meter.cost, steps=0, run_id=job.run_id)

    loader.fetch(job.spec, "denoiser", interruptible_notes(notify, stop))

    def compute() -> tuple[torch.Tensor, StageReport]:
        return _denoise_here(job, latents, loader, stop, notify)

    return loader.queue.run(compute, stop, lambda n: notify(turn_message(n)))


def _denoise_here(
    job: ResolvedJob, latents: torch.Tensor, loader: Loader, stop: threading.Event, notify: Notify
) -> tuple[torch.Tensor, StageReport]:
    """`denoise` when its turn has come, as often as number formats and memory make it."""
    from backend.vae.base import clear_traceback_frames

    device = loader.device
    where = device_name(device)
    reason = f"Only the last {job.steps_to_run} of {job.num_inference_steps} steps run at strength {job.strength:g}."
    notify(Waiting(f"Loading {job.spec.title}"))
    pipeline = loader.denoiser(job.spec)
    with Meter(device) as meter:
        while True:
            notify(StageStarted("denoise", "local", reason, where))
            dtype = str(pipeline.dtype).removeprefix("torch.")
            try:
                output = _paint(pipeline, job, latents, stop, notify)
                break
            except NonFiniteError:
                following = precision.next_wider_dtype(pipeline.dtype, device)
                if following is None:
                    raise
                reason += f" {dtype} overflowed, so it ran again in {str(following).removeprefix('torch.')}."
            except OutOfMemoryError as error:
                clear_traceback_frames(error)  # they hold the pipeline
                pipeline = None
                done = loader.reduce_memory(job.spec)
                if done is None:
                    raise
                following = None
                reason = f"{reason} It ran out of memory, so {done} and it ran again."
            pipeline = None  # so that the loader can free it before it loads the other one
            pipeline = loader.denoiser(job.spec, following)
    report = StageReport(
        "denoise",
        "local",
        reason,
        where,
        meter.cost,
        steps=job.steps_to_run,
        dtype=dtype,
        run_id=job.run_id,
    )
    return output, report


def _paint(
    pipeline: Any, job: ResolvedJob, latents: torch.Tensor, stop: threading.Event, notify: Notify
) -> torch.Tensor:
    """One run of the pipeline: scaled latents (1, C, h, w) in and, on the CPU, out.

    Raises:
        OutOfMemoryError: did not fit. NonFiniteError: some step gave NaN or infinite values.
    """
    import torch

    from backend.vae.base import clear_traceback_frames, is_out_of_memory

    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    own = pipeline.scheduler
    pipeline.scheduler = _scheduler(own, job.job.scheduler)
    try:
        with interruptible(network, stop):
            output = pipeline(
                prompt=job.job.prompt,
                image=latents,
                strength=job.strength,
                num_inference_steps=job.num_inference_steps,
                **families.guidance_arguments(job),
                **families.size_arguments(latents, job.spec),
                generator=torch.Generator().manual_seed(job.seed),
                output_type="latent",
                callback_on_step_end=_reporter(job, latents.shape, stop, notify),
            ).images
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        clear_traceback_frames(error)
        empty_device_cache(pipeline.device)
        raise OutOfMemoryError(
            "There was not enough memory to paint at this size.", "Please choose a smaller size."
        ) from error
    finally:
        pipeline.scheduler = own
    return families.unpack(output, latents.shape, job.spec.latents).cpu()


def _reporter(
    job: ResolvedJob, shape: torch.Size, stop: threading.Event, notify: Notify
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """The pipeline's callback: counts steps, guesses the time left, and now and then looks at the latents."""
    begin = time.monotonic()
    last_preview = 0.0

    def report(_pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_preview
        raise_if_stopped(stop)
        if not bool(tensors["latents"].isfinite().all()):
            raise NonFiniteError(
                f"{job.spec.title} overflowed in {str(tensors['latents'].dtype).removeprefix('torch.')}.",
                "A wider number format cures this.",
            )
        now = time.monotonic()
        picture = None
        if now - last_preview >= _PREVIEW_SECONDS:
            picture = preview(families.unpack(tensors["latents"], shape, job.spec.latents), job.spec)
            last_preview = now
        done, steps = index + 1, job.steps_to_run
        notify(Step(done, steps, picture, (now - begin) / done * (steps - done)))
        return {}

    return report


def _scheduler(own: Any, name: str) -> Any:
    """A fresh scheduler for each run: several keep state, and a run must not feel the one before."""
    kind = type(own) if name == "default" else getattr(import_module_locked("diffusers"), SCHEDULERS[name])
    return kind.from_config(own.config)

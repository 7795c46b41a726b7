"""Image to image in three stages, as a generator of events.

The pipeline runs in a thread of its own, because diffusers reports steps by calling back while the page wants to
ask for them one by one. Closing the generator, or setting `stop`, ends the run inside the current step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from backend import families, images, precision
from backend.errors import LatentRelayError, NonFiniteError, OutOfMemoryError, RemoteError
from backend.interrupt import interruptible, raise_if_stopped
from backend.job import SCHEDULERS, Event, Job, ResolvedJob, Result, StageDone, StageStarted, Step, Waiting
from backend.latents import preview
from backend.loading import Loader
from backend.measure import Meter, device_name, give_memory_back
from backend.report import StageReport
from backend.stages import Notify, Stages, Work, turn_message

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_PREVIEW_SECONDS = 0.2
"""Shortest time between two previews: a person sees no more, and small models step faster than that."""


def run(job: Job, stages: Stages, loader: Loader, stop: threading.Event | None = None) -> Iterator[Event]:
    """Run `job`; the last event is a Result.

    Every finished stage's latents are in its StageDone event, so a later failure loses nothing.

    Raises:
        LatentRelayError: bad settings (before anything runs), Cancelled, or what the failing stage raised.
    """
    resolved = job.resolved()
    return _events(
        lambda stop, notify: _logged_work(resolved, stages, loader, stop, notify), stop or threading.Event()
    )


def _events(work: Callable[[threading.Event, Notify], None], stop: threading.Event) -> Iterator[Event]:
    """Run `work(stop, notify)` in a thread and yield what it notifies; its error is raised here."""
    events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def target() -> None:
        try:
            work(stop, events.put)
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer, not swallowed
            events.put(error)
        else:
            events.put(None)

    thread = threading.Thread(target=target, name="img2img", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.set()
        thread.join()


def _logged_work(
    job: ResolvedJob, stages: Stages, loader: Loader, stop: threading.Event, notify: Notify
) -> None:
    """The work, and one line in the log about how it ended; no word of the prompt."""
    told = {"run_id": job.run_id, "model": job.spec.name, "width": job.width, "height": job.height}
    begin = time.monotonic()
    try:
        _work(job, stages, loader, stop, notify)
    except LatentRelayError as error:
        error.run_id = job.run_id
        log.info(
            "img2img ended: %s",
            error,
            extra={**told, "code": error.code, "seconds": time.monotonic() - begin},
        )
        raise
    log.info("img2img done", extra={**told, "code": "done", "seconds": time.monotonic() - begin})


def _work(job: ResolvedJob, stages: Stages, loader: Loader, stop: threading.Event, notify: Notify) -> None:
    spec = job.spec
    picture = images.resize(images.to_rgb(job.job.image), job.width, job.height)
    encode = Work("encode", spec, images.to_tensor(picture), job.job.encode, job.run_id)
    latents, encoded = stages.run(encode, stop, notify)
    notify(StageDone(encoded, latents))

    if job.job.decode.mode == "remote" and job.steps_to_run:
        _look_ahead(job, stages, stop, notify)
    latents, denoised = denoise(job, latents, loader, stop, notify)
    stages.learn_painting(job, denoised)
    notify(StageDone(denoised, latents))

    decode = Work("decode", spec, latents, job.job.decode, job.run_id)
    pixels, decoded = stages.run(decode, stop, notify)
    notify(StageDone(decoded))
    notify(Result(images.to_image(pixels), latents, (encoded, denoised, decoded), job.recipe()))


def _look_ahead(job: ResolvedJob, stages: Stages, stop: threading.Event, notify: Notify) -> None:
    """Before minutes of painting: would the chosen endpoint decode the result?

    Raises:
        RemoteError: it would not, with what was found. One that may just be waking up is only told of.
    """
    found = stages.preflight(job.spec, "decode", stop, notify, job.run_id)
    if found is None or found.light == "green":
        return
    if found.light == "red":
        raise RemoteError(found.sentence, "Nothing was painted yet; choose another place to decode.")
    notify(Waiting(found.sentence))


def denoise(
    job: ResolvedJob, latents: torch.Tensor, loader: Loader, stop: threading.Event, notify: Notify
) -> tuple[torch.Tensor, StageReport]:
    """Scaled latents (1, C, h, w) through the model's img2img pipeline, on the CPU again, with a report.

    A run that overflows is started again in a wider number format, and the report says so. The seed drives a CPU
    generator, so that the same job gives the same noise on every device.
    """
    device = loader.device
    where = device_name(device)
    if job.steps_to_run == 0:
        reason = "So little was to change that no step was needed."
        notify(StageStarted("denoise", "none", reason, where))
        with Meter(device) as meter:
            pass
        return latents, StageReport("denoise", "none", reason, where, meter.cost, steps=0, run_id=job.run_id)
    reason = f"Only the last {job.steps_to_run} of {job.num_inference_steps} steps run at strength {job.strength:g}."
    with loader.turns.hold(stop, lambda n: notify(turn_message(n))):
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
                    following = precision.wider(pipeline.dtype, device)
                    if following is None:
                        raise
                reason += f" {dtype} overflowed, so it ran again in {str(following).removeprefix('torch.')}."
                pipeline = None  # so that the loader can free it before it loads the wider one
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

    from backend.vae.base import is_out_of_memory

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
        give_memory_back(pipeline.device)
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
    import diffusers

    kind = type(own) if name == "default" else getattr(diffusers, SCHEDULERS[name])
    return kind.from_config(own.config)

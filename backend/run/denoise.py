"""Denoising: a model's own diffusers img2img pipeline, from latents to latents."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from backend import families
from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.measure import Meter, current_device, device_name, empty_device_cache, memory_kind
from backend.device.precision import dtype_name, overflow_hint, overflow_message, retry_with_upcast
from backend.errors import NonFiniteError, OutOfMemoryError
from backend.events import StageStarted, Step, Waiting
from backend.job import SCHEDULERS, ResolvedJob
from backend.latents import preview
from backend.lazy_import import diffusers_class
from backend.message import Message, join
from backend.report import Cost, StageReport
from backend.run.context import ExecutionContext, Notify, waiting

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_PREVIEW_SECONDS = 0.2
"""Shortest time between two previews: a person sees no more, and small models step faster than that."""


def denoise(
    job: ResolvedJob,
    latents: torch.Tensor,
    context: ExecutionContext,
    stop: threading.Event,
    notify: Notify,
) -> tuple[torch.Tensor, StageReport]:
    """Scaled latents (1, C, h, w) through the model's pipeline, left on its device, with a report.

    A run that overflows is started again in a wider dtype, one that runs out of memory with less of the model on the
    device, and the report says so. The seed drives a CPU generator, so that the same job gives the same noise on
    every device.

    Raises:
        OutOfMemoryError: did not fit, whatever was tried. NonFiniteError: NaN or infinite values also in float32.
        ModelUnavailableError: the weights cannot be had. Cancelled: `stop` was set.
    """
    if job.steps_to_run == 0:
        return latents, _nothing_to_do(job, context, notify)
    loader = context.loader
    loader.fetch(job.spec, ["denoiser"], notify, stop)
    latents, report = loader.queue.run(
        lambda: _denoise_here(job, latents, context, stop, notify),
        stop,
        lambda ahead: notify(waiting(ahead)),
    )
    context.planner.learn_denoise(job, report)
    return latents, report


def _nothing_to_do(job: ResolvedJob, context: ExecutionContext, notify: Notify) -> StageReport:
    device = context.loader.device
    where = device_name(device)
    reason = Message("So little was to change that no step was needed.")
    notify(StageStarted("denoise", "none", reason, where))
    cost = Cost(0.0, memory_kind(device))
    return StageReport("denoise", "none", reason, where, cost, steps=0, run_id=job.run_id)


def _denoise_here(
    job: ResolvedJob,
    latents: torch.Tensor,
    context: ExecutionContext,
    stop: threading.Event,
    notify: Notify,
) -> tuple[torch.Tensor, StageReport]:
    """On the device's thread: as often as dtypes and memory make it."""
    from backend.vae.base import clear_traceback_frames

    loader, spec = context.loader, job.spec
    where = device_name(loader.device)
    reason = Message(
        "Only the last {count} of {steps} steps run at strength {strength:g}.",
        count=job.steps_to_run,
        steps=job.num_inference_steps,
        strength=job.strength,
    )
    last_dtype = ""

    def load(dtype: torch.dtype | None) -> Any:
        nonlocal reason, last_dtype
        meter.begin_steps()
        if dtype is not None:
            reason = join(reason, overflow_message(last_dtype, dtype_name(dtype)))
        pipeline = loader.denoiser(spec, dtype)
        last_dtype = dtype_name(pipeline.dtype)
        notify(StageStarted("denoise", "local", reason, where))
        return pipeline

    def compute(pipeline: Any) -> tuple[torch.Tensor, int, float | None]:
        return _run_pipeline(pipeline, job, latents, loader.device, stop, notify, meter)

    notify(Waiting(Message("Loading {model}", model=spec.title_message)))
    while True:
        try:
            loader.denoiser(spec)  # outside the measurement
            with current_device(loader.device), Meter(loader.device) as meter:
                (output, steps, step_seconds), dtype, _ = retry_with_upcast(load, compute, loader.device)
            break
        except OutOfMemoryError as error:
            clear_traceback_frames(error)  # they hold the pipeline
            done = loader.reduce_memory(spec)
            if done is None:
                raise
        raise_if_stopped(stop)
        reason = join(reason, Message("It ran out of memory, so {done} and it ran again.", done=done))
    report = StageReport(
        stage="denoise",
        mode="local",
        reason=join(reason, loader.offload(spec)),
        where=where,
        cost=meter.cost,
        steps=steps,
        step_seconds=step_seconds,
        dtype=dtype,
        run_id=job.run_id,
    )
    return output, report


def _run_pipeline(
    pipeline: Any,
    job: ResolvedJob,
    latents: torch.Tensor,
    device: torch.device,
    stop: threading.Event,
    notify: Notify,
    meter: Meter,
) -> tuple[torch.Tensor, int, float | None]:
    """One run of the pipeline: scaled latents (1, C, h, w) in and out; the steps that it took; seconds of one of them,
    if there were three.

    Raises:
        OutOfMemoryError: did not fit. NonFiniteError: some step gave NaN or infinite values.
    """
    import torch

    from backend.vae.base import clear_traceback_frames, is_out_of_memory

    ends: list[float] = []
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    original_scheduler = pipeline.scheduler
    pipeline.scheduler = _scheduler(original_scheduler, job.scheduler)
    try:
        with interruptible(network, stop):
            output = pipeline(
                prompt=job.model_prompt,
                image=latents,
                strength=job.strength,
                num_inference_steps=job.num_inference_steps,
                **families.guidance_arguments(job.spec, job.guidance_scale, job.model_negative_prompt),
                **families.size_arguments(latents, job.spec),
                generator=torch.Generator().manual_seed(job.seed),
                output_type="latent",
                callback_on_step_end=_step_callback(job, latents.shape, stop, notify, meter, ends),
            ).images
    except BaseException as error:
        # What an offloaded pipeline moved onto the device goes back at the end of a run, so not if it is broken off.
        pipeline.maybe_free_model_hooks()
        if not is_out_of_memory(error):
            raise
        clear_traceback_frames(error)
        empty_device_cache(device)
        raise OutOfMemoryError(
            "There was not enough memory to paint at this size.", "Please choose a smaller size."
        ) from error
    finally:
        pipeline.scheduler = original_scheduler
    # The scheduler's own count: PNDM's first steps are several, and some take one more than was asked for.
    latents = families.unpack(output, latents.shape, job.spec.latents)
    return latents, pipeline.num_timesteps, _median_interval(ends)


def _median_interval(times: Sequence[float]) -> float | None:
    return None if len(times) < 3 else median(after - before for before, after in pairwise(times))


def _step_callback(
    job: ResolvedJob,
    shape: torch.Size,
    stop: threading.Event,
    notify: Notify,
    meter: Meter,
    ends: list[float],
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """The pipeline's callback: counts steps, guesses the time left, and now and then previews the latents.

    Appends the time at the end of each step to `ends`.
    """
    from backend.vae.base import is_finite

    begin = time.monotonic()
    last_preview = 0.0

    def callback(pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_preview
        raise_if_stopped(stop)
        latents = tensors["latents"]
        # Without a preview, the one value in a step that the host waits for.
        if not is_finite(latents):
            raise NonFiniteError(
                "{model} overflowed in {dtype}.",
                overflow_hint(latents.dtype),
                model=job.spec.title_message,
                dtype=dtype_name(latents.dtype),
            )
        now = time.monotonic()
        ends.append(now)
        picture = None
        if now - last_preview >= _PREVIEW_SECONDS:
            picture = preview(families.unpack(latents, shape, job.spec.latents), job.spec)
            last_preview = now
        done, steps = index + 1, pipeline.num_timesteps
        notify(Step(done, steps, picture, (now - begin) / done * (steps - done)))
        meter.end_step()
        return {}

    return callback


def _scheduler(original: Any, name: str) -> Any:
    """A fresh scheduler for each run: several keep state, and a run must not feel the one before."""
    kind = type(original) if name == "default" else diffusers_class(SCHEDULERS[name])
    # Stable Diffusion was never run with PNDM's Runge-Kutta start, which takes up to three times the steps.
    known = {"skip_prk_steps": True} if name == "PNDM" else {}
    return _with_timesteps_on_the_host(kind.from_config(original.config, **known))


def _with_timesteps_on_the_host(scheduler: Any) -> Any:
    """`scheduler`, which keeps all that it looks up on the host; only what a pipeline sees of `timesteps` is elsewhere.

    Several of diffusers' schedulers index a table in host memory with a timestep, and compare it, which makes the host
    wait for the device at each step. Timesteps are known beforehand, and a pipeline passes views of `timesteps`, so
    where such a view begins says which one it is.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    host: list[torch.Tensor] = []

    @functools.wraps(set_timesteps)
    def set_on_host(*args: Any, device: Any = None, **kwargs: Any) -> None:
        set_timesteps(*args, device="cpu", **kwargs)
        host[:] = [scheduler.timesteps]
        if device is not None:
            scheduler.timesteps = scheduler.timesteps.to(device)

    @functools.wraps(step)
    def step_on_host(model_output: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        seen = scheduler.timesteps
        if getattr(timestep, "ndim", None) == 0 and _storage(timestep) == _storage(seen):
            timestep = host[0][timestep.storage_offset() - seen.storage_offset()]
        scheduler.timesteps = host[0]
        try:
            return step(model_output, timestep, *args, **kwargs)
        finally:
            scheduler.timesteps = seen

    scheduler.set_timesteps, scheduler.step = set_on_host, step_on_host
    return scheduler


def _storage(tensor: torch.Tensor) -> int:
    """Which memory the tensor is a view of."""
    return tensor.untyped_storage()._cdata

"""Image to image, from top to bottom: encode, denoise, decode.

`run_job` calls `notify` with each event as it happens. Every finished stage's latents are in its StageDone event, so a
later failure loses nothing.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend import images
from backend.device.hub import Part
from backend.errors import LatentRelayError, ModelUnavailableError, RemoteError
from backend.events import Result, StageDone, Waiting
from backend.job import ResolvedJob
from backend.message import Message
from backend.report import StageReport
from backend.request import decode_request, encode_request
from backend.run.context import ExecutionContext, Notify, waiting
from backend.run.denoise import denoise
from backend.run.job_queue import JobQueue
from backend.run.remote_stage import check_remote
from backend.run.stage import run_stage

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Denoised:
    """A job's latents (1, C, h, w) after denoising, where they were computed, and the reports so far."""

    latents: torch.Tensor
    reports: tuple[StageReport, StageReport]


def run_job(
    job: ResolvedJob, context: ExecutionContext, queue: JobQueue, stop: threading.Event, notify: Notify
) -> None:
    """Run `job` once `queue` lets it in; the last event is a Result.

    Raises:
        LatentRelayError: Cancelled, BusyError, or what the failing stage raised, with the run's id.
    """
    try:
        fetch_weights(job, context, stop, notify)
        with queue.enter(stop, lambda ahead: notify(waiting(ahead))):
            denoised = encode_and_denoise(job, context, stop, notify)
            pixels, decoded = decode(job, denoised, context, stop, notify)
            finish(job, denoised, pixels, decoded, notify)
    except LatentRelayError as error:
        log_failure(job, error)
        raise


def fetch_weights(job: ResolvedJob, context: ExecutionContext, stop: threading.Event, notify: Notify) -> None:
    """Download what the job needs: before it takes one of the few places, because that may take an hour.

    Raises:
        ModelUnavailableError: it cannot be had. Cancelled: `stop` was set.
    """
    # 0. Weights first, all of them together.
    modes = {job.encode.mode, job.decode.mode}
    needed: list[Part] = ["denoiser"] if job.steps_to_run else []
    if modes - {"auto", "tiny", "remote"}:
        needed.append("VAE")
    if "tiny" in modes:
        needed.append("tiny VAE")
    if "auto" in modes and "VAE" not in needed:
        try:
            context.loader.fetch(job.spec, [*needed, "VAE"], notify, stop)
            return
        except ModelUnavailableError as error:
            # "auto" may take an endpoint in its place; the stage decides.
            log.info("not all weights can be had: %s", error, extra=_log_fields(job))
    context.loader.fetch(job.spec, needed, notify, stop)


def encode_and_denoise(
    job: ResolvedJob, context: ExecutionContext, stop: threading.Event, notify: Notify
) -> Denoised:
    """The first two stages."""
    # 1. The picture at the size it is worked on, (1, 3, H, W) in [-1, 1], becomes latents (1, C, H/f, W/f).
    picture = images.resize(images.to_rgb(job.image), job.width, job.height)
    request = encode_request(job.spec, images.to_tensor(picture), job.encode, job.run_id, stays=True)
    latents, encoded = run_stage(request, context, stop, notify)
    notify(StageDone(encoded, latents.cpu()))

    # 2. Before minutes of denoising: would the chosen endpoint decode the result?
    if job.decode.mode == "remote" and job.steps_to_run:
        _check_decoder(job, context, stop, notify)

    # 3. Noise is added for the job's strength and taken away again step by step.
    latents, denoised = denoise(job, latents, context, stop, notify)
    notify(StageDone(denoised, latents.cpu()))
    return Denoised(latents, (encoded, denoised))


def decode(
    job: ResolvedJob, denoised: Denoised, context: ExecutionContext, stop: threading.Event, notify: Notify
) -> tuple[torch.Tensor, StageReport]:
    """The last stage: an image (1, 3, H, W) in [-1, 1] or its uint8 pixels, and its report."""
    # 4. The latents become pixels.
    request = decode_request(job.spec, denoised.latents, job.decode, job.run_id, as_picture=True)
    return run_stage(request, context, stop, notify)


def finish(
    job: ResolvedJob, denoised: Denoised, pixels: torch.Tensor, decoded: StageReport, notify: Notify
) -> None:
    """Report the last stage and the picture."""
    # 5. The picture, its latents, what each stage cost, and how to do it again.
    notify(StageDone(decoded))
    reports = (*denoised.reports, decoded)
    notify(Result(images.to_image(pixels), denoised.latents.cpu(), reports, job.recipe()))
    seconds = {report.stage: round(report.cost.seconds, 3) for report in reports}
    log.info("img2img done", extra={**_log_fields(job), "code": "done", "seconds": seconds})


def _check_decoder(
    job: ResolvedJob, context: ExecutionContext, stop: threading.Event, notify: Notify
) -> None:
    """Raises RemoteError if the endpoint cannot decode; one that may just be starting is only announced."""
    found = check_remote(job.spec, "decode", context, job.decode, stop, notify, job.run_id)
    if found is None or found.status == "ready":
        return
    if found.status == "broken":
        raise RemoteError(found.message, Message("Nothing was painted yet; choose another place to decode."))
    notify(Waiting(found.message))


def log_failure(job: ResolvedJob, error: LatentRelayError) -> None:
    """Give the error its run's id, and the log a line with both."""
    error.run_id = job.run_id
    log.info("img2img ended: %s", error, extra={**_log_fields(job), "code": error.code})


def _log_fields(job: ResolvedJob) -> dict[str, Any]:
    """What the log says of a run: no word of its prompt."""
    return {"run_id": job.run_id, "model": job.spec.name, "width": job.width, "height": job.height}

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
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from backend.device.interrupt import raise_if_stopped
from backend.errors import LatentRelayError
from backend.events import Event, Failed, StageDone
from backend.job import Job, ResolvedJob
from backend.placement import shapes as forecast

if TYPE_CHECKING:
    import torch

    from backend.models import LatentSpec, ModelSpec
    from backend.report import StageReport
    from backend.run.stage import Notify, Stages, Work

T = TypeVar("T")

Decorator = Callable[..., Callable[[T], T]]
"""`spaces.GPU`: called with `duration=`, a number of seconds or a function of the call's arguments."""

SHORTEST, LONGEST = 10, 120
"""Seconds that are asked for: a visitor's quota is charged by them, and a call over the longest is not let in."""
_ARRIVAL = 6.0
"""Seconds for the fork and for moving the weights onto the card."""
_REMOTE = 15.0
"""Seconds for a stage elsewhere, during which the card waits."""
_MARGIN = 1.5
_VAE_RATE = 5e12
"""Multiply-adds a second. Low for a card of that kind: a call that ran out of its time would be lost."""
_PIXEL_STEPS = {"sd": 4e6, "sdxl": 5e6, "flux": 1e6}
"""Pixels times steps a second, by family, until the first job has shown better; as low, for the same reason."""


def decorator(environ: Mapping[str, str]) -> Decorator[Any] | None:
    """`spaces.GPU` on a ZeroGPU Space, None elsewhere. To be called before torch is imported, because `spaces` says so.

    Raises:
        ImportError: on such a Space without the package `spaces`, which comes with it.
    """
    if environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return None
    return importlib.import_module("spaces").GPU


class ZeroGpu:
    """The decorated calls of one app; to be made while the app starts, where `spaces` looks for them."""

    def __init__(
        self, decorate: Decorator[Any], stages: Stages, run: Callable[[Job], Iterator[Event]]
    ) -> None:
        """`run` gives a job's events, and `stages` runs a stage, in whichever process they are called."""
        self._stages = stages
        self._run = run
        self._job_call = decorate(duration=self.job_seconds)(self._job)
        self._stage_call = decorate(duration=self.stage_seconds)(self._stage)

    # -- in this process

    def job(self, job: Job, stop: threading.Event) -> Iterator[Event]:
        """The events of `job`, run on a lent card; like `img2img.run`, but stopping takes up to one step.

        Raises:
            LatentRelayError: as the job raised it there, or Cancelled.
        """
        resolved = job.resolved()
        events = self._job_call(resolved.job)  # seed and all: the card's process must not roll the dice anew
        try:
            for event in events:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, StageDone) and event.report.stage == "denoise":
                    self._stages.learn_painting(resolved, event.report)  # the fork's own memory is lost
                yield event
                raise_if_stopped(stop)
        finally:
            events.close()

    def stage(self, work: Work) -> tuple[torch.Tensor, StageReport]:
        """One VAE stage on a lent card. Raises what it raised there."""
        answer = self._stage_call(work)
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    def job_seconds(self, job: Job) -> int:
        """What to ask for: the forecast of all three stages, with a margin, within bounds."""
        resolved = job.resolved()
        painting = self._stages.expect_painting(resolved)
        if painting is None:
            painting = painting_seconds(resolved)
        ends = sum(
            _REMOTE
            if options.mode == "remote"
            else vae_seconds(resolved.spec, resolved.width, resolved.height)
            for options in (resolved.job.encode, resolved.job.decode)
        )
        return bounded(painting + ends)

    def stage_seconds(self, work: Work) -> int:
        batch = work.tensor.shape[0]
        return bounded(batch * vae_seconds(work.spec, *work.size))

    # -- in the card's process

    def _job(self, job: Job) -> Iterator[Event | Failed]:
        try:
            yield from self._run(job)
        except LatentRelayError as error:
            yield Failed(error)

    def _stage(self, work: Work) -> tuple[torch.Tensor, StageReport] | Failed:
        try:
            return self._stages.run_here(work)
        except LatentRelayError as error:
            return Failed(error)


def bounded(seconds: float) -> int:
    return min(LONGEST, max(SHORTEST, math.ceil(_ARRIVAL + _MARGIN * seconds)))


def vae_seconds(spec: ModelSpec, width: int, height: int) -> float:
    """Of a decode, the longer of the two."""
    return forecast.multiply_adds(spec.vae_block_out_channels, "decode", width, height) / _VAE_RATE


def painting_seconds(job: ResolvedJob) -> float:
    passes = 2 if job.guidance_scale > 1 else 1
    pixel_steps = job.steps_to_run * job.width * job.height * passes
    return pixel_steps / _PIXEL_STEPS.get(job.spec.family, min(_PIXEL_STEPS.values()))


class LentVAE:
    """A VAE that computes on a lent card, for the app's own endpoint."""

    mode: ClassVar[str] = "whole"

    def __init__(
        self, spec: ModelSpec, run: Callable[[Work, Any, Notify], Any], leaner: bool = False
    ) -> None:
        self.spec: LatentSpec = spec.latents
        self._model = spec
        self._run = run
        self._mode = "tiled" if leaner else "whole"

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self._compute("encode", image)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._compute("decode", latents)

    def _compute(self, stage: Any, tensor: torch.Tensor) -> torch.Tensor:
        from backend.job import VaeOptions
        from backend.run.stage import Work

        output, _ = self._run(Work(stage, self._model, tensor, VaeOptions(self._mode)), None, lambda _: None)
        return output

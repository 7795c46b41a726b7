"""One VAE stage from wish to report: choose the mode, wait for a turn, run it, measure it, fall back if need be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backend.device import precision
from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.loading import Loader
from backend.device.measure import Meter, device_name, empty_device_cache, free_bytes
from backend.errors import (
    BadSettingError,
    LatentRelayError,
    NonFiniteError,
    OutOfMemoryError,
    RemoteError,
)
from backend.events import Event, StageStarted, Waiting
from backend.job import ResolvedJob, VaeOptions
from backend.logs import new_id
from backend.models import LatentSpec, ModelSpec
from backend.placement.choose import SAFE_SHARE, Choice, ladder
from backend.placement.learned import Calibration, Expectation, Plan
from backend.placement.shapes import Direction
from backend.remote import endpoints
from backend.report import Stage, StageReport, Traffic
from backend.settings import Settings

if TYPE_CHECKING:
    import torch

    from backend.remote.preflight import Preflight
    from backend.remote.vae import RemoteVae
    from backend.run.zero_gpu import ZeroGpu
    from backend.vae.base import VAE, LocalVAE

log = logging.getLogger(__name__)

_STREAMED_FROM_PIXELS = 512 * 512

Notify = Callable[[Event], None]
_REMOTE = VaeOptions("remote")


@dataclass(frozen=True)
class Work:
    """What one VAE stage is to do: a tensor through one direction of a model's VAE."""

    stage: Stage
    spec: ModelSpec
    tensor: torch.Tensor
    """Encode: image (1, 3, H, W) in [-1, 1]. Decode: scaled latents (1, C, h, w)."""
    options: VaeOptions
    run_id: str = field(default_factory=new_id)
    """Joins what a person reads to a line of the log, here and at an endpoint."""

    @property
    def direction(self) -> Direction:
        return "encode" if self.stage == "encode" else "decode"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture."""
        factor = 1 if self.stage == "encode" else self.spec.latents.downscale
        height, width = self.tensor.shape[-2:]
        return width * factor, height * factor


class Stages:
    """Runs VAE stages. `self_url` gives this app's base URL once it listens, None before."""

    def __init__(self, settings: Settings, loader: Loader, self_url: Callable[[], str | None]) -> None:
        self.settings = settings
        self.loader = loader
        self.calibration = Calibration(settings.cache_folder and settings.cache_folder / "calibration.json")
        self._self_url = self_url
        self.zero_gpu: ZeroGpu | None = None
        """Where the card is lent call by call."""

    def run(
        self, work: Work, stop: threading.Event | None = None, notify: Notify = lambda _: None
    ) -> tuple[torch.Tensor, StageReport]:
        """The stage's output (decode: float32 image; encode: scaled latents) on the CPU, and its report.

        Only `auto` falls back, down its ladder after an out-of-memory error or a failed endpoint, and the report
        says so.

        Raises:
            LatentRelayError: as the mode raised it, with the run's id; the caller still holds its input.
        """
        work.options.checked()
        if self.zero_gpu is not None and work.options.mode != "remote":
            return self.zero_gpu.stage(work)
        return self.run_here(work, stop, notify)

    def run_here(
        self, work: Work, stop: threading.Event | None = None, notify: Notify = lambda _: None
    ) -> tuple[torch.Tensor, StageReport]:
        """`run`, in this process in any case."""
        choices = self._choices(work)
        for index, choice in enumerate(choices):
            try:
                return self._run_mode(work, choice, stop, notify)
            except LatentRelayError as error:
                error.run_id = work.run_id
                log.info(
                    "%s %s failed: %s",
                    choice.mode,
                    work.stage,
                    error,
                    extra={"run_id": work.run_id, "code": error.code},
                )
                if index == len(choices) - 1 or not isinstance(error, OutOfMemoryError | RemoteError):
                    raise
                following = choices[index + 1]
                tried = f"“{choice.mode}” was tried first and failed."
                said = [following.reason, tried, str(error)]
                if isinstance(error, OutOfMemoryError):
                    said = [following.reason, f"“{choice.mode}” was tried first and ran out of memory."]
                choices[index + 1] = Choice(following.mode, " ".join(said))
            # Only now, when the error is gone and holds nothing any more.
            empty_device_cache(self.loader.device)
        raise AssertionError("a ladder is never empty")

    def _choices(self, work: Work) -> list[Choice]:
        return self.choices(work.spec, work.direction, *work.size, work.options)

    def choices(
        self, spec: ModelSpec, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> list[Choice]:
        """The modes to try for a picture of that size, in this order; only `auto` has more than one."""
        if options.mode != "auto":
            return [Choice(options.mode, "You chose it.")]

        def need(mode: str) -> int | None:
            return self.expect(spec, direction, width, height, mode, options).peak_bytes

        pair = self.settings.endpoint_pair(spec)
        return ladder(
            whole=need("whole") or 0,
            streamed=need("streamed"),
            tiled=need("tiled") or 0,
            free=free_bytes(self.loader.device),
            tile_size=options.tile_size,
            # A fallback to this very app would need the same memory again, so its own endpoint is none.
            has_remote=pair.of(direction) is not None,
            streamed_is_faster=self._streams_faster(spec, direction, width, height, options),
        )

    def _streams_faster(
        self, spec: ModelSpec, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> bool:
        """As measured here; before both have run, as `benchmarks.streamed` found on processors. Small pictures stay
        whole, so that what is learned does not move everyday jobs from one rounding to another."""
        if width * height < _STREAMED_FROM_PIXELS:
            return False
        whole, streamed = (
            self.calibration.measured_seconds(self._plan(spec, direction, width, height, mode, options))
            for mode in ("whole", "streamed")
        )
        if whole is None or streamed is None:
            return self.loader.device.type == "cpu"
        return streamed < whole

    def expect(
        self, spec: ModelSpec, direction: Direction, width: int, height: int, mode: str, options: VaeOptions
    ) -> Expectation:
        """What a stage in that mode will take on this app's device."""
        return self.calibration.expect(self._plan(spec, direction, width, height, mode, options))

    def learn_painting(self, job: ResolvedJob, report: StageReport) -> None:
        """Remember how long a finished denoising took, for the next estimate."""
        self.calibration.learn_painting(*self._painting(job), report.cost.seconds)

    def expect_painting(self, job: ResolvedJob) -> float | None:
        """Seconds the job's denoising will take; 0 if there is nothing to do, None before the model has painted."""
        return 0.0 if job.steps_to_run == 0 else self.calibration.expect_painting(*self._painting(job))

    def _painting(self, job: ResolvedJob) -> tuple[str, str, str, bool, float]:
        dtype = str(self.loader.dtype(job.spec)).removeprefix("torch.")
        pixel_steps = float(job.steps_to_run * job.width * job.height)
        return str(device_name(self.loader.device)), dtype, job.spec.name, job.guidance_scale > 1, pixel_steps

    def _plan(
        self, spec: ModelSpec, direction: Direction, width: int, height: int, mode: str, options: VaeOptions
    ) -> Plan:
        device = self.loader.device
        return Plan(
            spec,
            direction,
            width,
            height,
            mode,
            device.type,
            str(device_name(device)),
            str(self.loader.dtype(spec)).removeprefix("torch."),
            options.tile_size,
            options.tile_overlap,
        )

    def _run_mode(
        self, work: Work, choice: Choice, stop: threading.Event | None, notify: Notify
    ) -> tuple[torch.Tensor, StageReport]:
        raise_if_stopped(stop)
        device = self.loader.device
        if choice.mode == "remote":
            return self._run_remote(work, choice, stop, notify)
        where = device_name(device)
        tiny = choice.mode == "tiny"

        def compute() -> tuple[torch.Tensor, str, str, Meter]:
            if not self.loader.has_vae(work.spec, tiny):
                notify(Waiting(f"Loading the {'tiny ' if tiny else ''}VAE of {work.spec.title}"))
            module = self.loader.vae(work.spec, tiny)
            notify(StageStarted(work.stage, choice.mode, choice.reason, where))
            with Meter(device) as meter:
                output, dtype, climbed = _climb(choice.mode, module, work, stop)
            return output, dtype, climbed, meter

        # A download takes minutes and no device, so nobody waits for it but this job.
        self.loader.fetch(work.spec, "tiny VAE" if tiny else "VAE", interruptible_notes(notify, stop))
        # Loading waits for its turn too: it may free what another's job is using.
        output, dtype, climbed, meter = self.loader.queue.run(
            compute, stop, lambda n: notify(turn_message(n))
        )
        if not climbed:  # else the seconds are those of several runs
            plan = self._plan(work.spec, work.direction, *work.size, choice.mode, work.options)
            self.calibration.learn(plan, meter.cost.seconds, meter.cost.added_bytes)
        choice = Choice(choice.mode, f"{choice.reason} {climbed}".strip())
        return output, _report(work, choice, where, meter, dtype=dtype)

    def _run_remote(
        self, work: Work, choice: Choice, stop: threading.Event | None, notify: Notify
    ) -> tuple[torch.Tensor, StageReport]:
        vae, where = self._remote(work.spec, work.direction, work.options, stop, notify, work.run_id)
        notify(StageStarted(work.stage, "remote", choice.reason, where))
        with Meter(self.loader.device) as meter:
            output = _apply(vae, work)
        dtype, overflowed = vae.computed or (None, ())
        if overflowed:
            tried = " and ".join(overflowed)
            said = f"At the endpoint {tried} overflowed, so it computed again in {dtype}."
            choice = Choice("remote", f"{choice.reason} {said}")
        report = _report(work, choice, where, meter, dtype=dtype, traffic=vae.traffic)
        return output, replace(report, avoided_bytes=self._avoided_bytes(work.spec))

    def _avoided_bytes(self, spec: ModelSpec) -> int | None:
        """Weights that need not be here as long as others do this model's VAE stages."""
        from backend.vae.architecture import vae_bytes

        if self.loader.has_vae(spec):
            return 0
        try:
            return vae_bytes(spec, self.loader.dtype(spec))
        except (OSError, ValueError, TypeError) as error:
            # A folder of one's own whose config says something else.
            log.info("The size of %s's VAE is unknown: %s", spec.name, error)
            return None

    def preflight(
        self,
        spec: ModelSpec,
        direction: Direction,
        options: VaeOptions = _REMOTE,
        stop: threading.Event | None = None,
        notify: Notify = lambda _: None,
        run_id: str | None = None,
    ) -> Preflight | None:
        """Whether the remote of that direction would work, found out with a tiny picture; None for this app's own.

        Raises:
            ModelUnavailableError: no endpoint is known. Cancelled: `stop` was set.
        """
        from backend.remote.preflight import preflight

        if self._is_own(spec, direction, options):
            return None
        vae, _ = self._remote(spec, direction, options, stop, notify, run_id)
        return preflight(vae, direction)

    def runs_elsewhere(
        self, spec: ModelSpec, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> bool:
        """Whether such a stage would leave this machine's device alone."""
        first = self.choices(spec, direction, width, height, options)[0]
        return first.mode == "remote" and not self._is_own(spec, direction, options)

    def _is_own(self, spec: ModelSpec, direction: Direction, options: VaeOptions) -> bool:
        """Whether the remote of that direction is this very app."""
        endpoint = endpoints.resolve(spec, direction, options, self.settings, self._self_url())
        return endpoint is not None and endpoint.is_self

    def _remote(
        self,
        spec: ModelSpec,
        direction: Direction,
        options: VaeOptions,
        stop: threading.Event | None,
        notify: Notify,
        run_id: str | None,
    ) -> tuple[RemoteVae, str]:
        """The client for that direction, and the host it talks to."""
        endpoint = endpoints.require(spec, direction, options, self.settings, self._self_url())
        vae = endpoints.client(
            endpoint, spec, options, self.settings, stop, lambda message: notify(Waiting(message)), run_id
        )
        return vae, endpoints.display_host(endpoint.url)


def _climb(mode: str, module: Any, work: Work, stop: threading.Event | None) -> tuple[torch.Tensor, str, str]:
    """(output, dtype, what to say about it): the stage, again in a wider number format as long as one overflows."""
    said = ""
    while True:
        options = work.options
        vae = local_vae(
            mode,
            module,
            work.spec.latents,
            options.tile_size,
            options.tile_overlap,
            stop,
            max_memory=round(free_bytes(next(module.parameters()).device) * SAFE_SHARE),
        )
        dtype = str(vae.dtype).removeprefix("torch.")
        try:
            with interruptible(module, stop):
                return _apply(vae, work), dtype, said
        except NonFiniteError:
            following = precision.next_wider_dtype(vae.dtype, vae.device)
            if following is None:
                raise
        said = (
            f"{said} {dtype} overflowed, so it ran again in {str(following).removeprefix('torch.')}.".strip()
        )
        module = precision.copy_in_dtype(module, following)


def _apply(vae: VAE, work: Work) -> torch.Tensor:
    output = vae.encode(work.tensor) if work.stage == "encode" else vae.decode(work.tensor)
    return output.cpu()


def local_vae(
    mode: str,
    module: Any,
    spec: LatentSpec,
    tile_size: int,
    tile_overlap: int,
    stop: threading.Event | None = None,
    max_memory: int | None = None,
) -> LocalVAE:
    """A local mode around the shared module; modes are cheap to make, the module is not.

    `max_memory` bytes bind the streamed mode only: it has leaner plans for them, the others have no choice.

    Raises:
        BadSettingError: no such local mode. UnsupportedVAEError: one that cannot run this VAE.
    """
    from backend.vae.streamed import Streamed
    from backend.vae.tiled import Tiled
    from backend.vae.tiny import Tiny
    from backend.vae.whole import Whole

    if mode == "whole":
        return Whole(module, spec)
    if mode == "streamed":
        return Streamed(module, spec, stop=stop, max_memory=max_memory)
    if mode == "tiny":
        return Tiny(module, spec)
    if mode == "tiled":
        return Tiled(module, spec, tile_size=tile_size, tile_overlap=tile_overlap)
    raise BadSettingError(f"The VAE mode “{mode}” cannot run here.")


def _report(
    work: Work,
    choice: Choice,
    where: str,
    meter: Meter,
    *,
    dtype: str | None = None,
    traffic: Traffic | None = None,
) -> StageReport:
    return StageReport(
        stage=work.stage,
        mode=choice.mode,
        reason=choice.reason,
        where=where,
        cost=meter.cost,
        traffic=traffic,
        dtype=dtype,
        requested_mode=work.options.mode,
        run_id=work.run_id,
    )


def interruptible_notes(notify: Notify, stop: threading.Event | None) -> Callable[[Event], None]:
    """`notify` for work that can only be ended by raising from where it tells of itself."""

    def tell(event: Event) -> None:
        raise_if_stopped(stop)
        notify(event)

    return tell


def turn_message(ahead: int) -> Waiting:
    """What a person reads while others use the device."""
    return Waiting("Waiting for 1 other to finish" if ahead == 1 else f"Waiting for {ahead} others to finish")

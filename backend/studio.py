"""The one object the page, the API and the endpoint hold.

Making a Studio loads nothing; torch and diffusers come in with the first piece of work, or with `warm_up`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from backend import images
from backend.device.availability import default_model
from backend.device.loading import Loader
from backend.device.measure import total_bytes
from backend.events import Event, InBatch
from backend.job import Job, ResolvedJob, VaeOptions, vae_modes
from backend.message import Message
from backend.models import ModelSpec
from backend.placement.estimate import Estimate
from backend.placement.fit import DIRECTIONS, Fit, fits_here
from backend.placement.learned import ExpectedCost
from backend.placement.planner import Planner
from backend.report import Direction, StageReport
from backend.request import StageRequest, decode_request, encode_request
from backend.run.context import ExecutionContext, Notify, ignore
from backend.run.departure import Departure, departure
from backend.run.executor import Executor, LocalExecutor
from backend.run.job_queue import JobQueue
from backend.run.remote_stage import check_remote
from backend.run.zero_gpu import SpacesGpu, ZeroGpuExecutor
from backend.settings import Settings

if TYPE_CHECKING:
    import torch
    from starlette.routing import Route

    from backend.endpoint import Served
    from backend.remote.preflight import Preflight

_JOBS_AT_ONCE = 4
"""More than one, so that the device works while another job is at a remote; few, so that a job begun is soon done."""


class Studio:
    """Thread-safe; one for each app."""

    def __init__(
        self,
        settings: Settings,
        spaces_gpu: SpacesGpu[Any] | None = None,
        *,
        loader: Loader | None = None,
    ) -> None:
        """`spaces_gpu`: `spaces.GPU`, on a Space whose graphics card is lent call by call. `loader`: another studio's,
        to share what it has loaded."""
        self.settings = settings
        self.models: Mapping[str, ModelSpec] = settings.models
        """Every model this app offers, by name: the built-in table and the owner's own."""
        self.loader = loader or Loader(settings)
        self.planner = Planner(settings, self.loader)
        self.context = ExecutionContext(settings, self.loader, self.planner)
        self.job_queue = JobQueue(_JOBS_AT_ONCE, settings.queue)
        local = LocalExecutor(self.context, self.job_queue)
        self.executor: Executor = ZeroGpuExecutor(spaces_gpu, local) if spaces_gpu else local

    @property
    def self_url(self) -> str | None:
        """Base URL of this app once it listens, e.g. http://127.0.0.1:7860; the built-in model's remote."""
        return self.context.self_url

    @self_url.setter
    def self_url(self, url: str | None) -> None:
        self.context.self_url = url

    def find_model(self, name: str) -> ModelSpec:
        """The model of that name. Raises UnknownModelError: there is none, or it cannot run yet."""
        return self.settings.find_model(name)

    def default_model(self) -> tuple[ModelSpec, Message]:
        """(model, friendly reason) for this machine, without importing torch where there is no GPU."""
        return default_model(self.settings)

    def warm_up(self, model: str | None = None) -> None:
        """Import the heavy libraries and load a model (the default one if None); for a thread after launch.

        Raises:
            LatentRelayError: the model cannot be had; the first job would say the same.
        """
        self.executor.load(self.find_model(model) if model else self.default_model()[0])

    def resolve(self, job: Job) -> ResolvedJob:
        """The job checked, with every open value filled in from its model.

        Raises:
            UnknownModelError, BadSettingError: with a sentence that says which value and its range.
        """
        return job.resolve(self.find_model(job.model))

    def img2img(
        self, job: Job, stop: threading.Event | None = None, heartbeat: float | None = None
    ) -> Iterator[Event | None]:
        """Run a job; see `backend.run.img2img`. Setting `stop` or closing the generator cancels it.

        With a `heartbeat` the generator yields None after so many seconds without an event, else it never does.

        Raises:
            UnknownModelError, BadSettingError: at once, before anything runs.
        """
        return self.executor.job(self.resolve(job), stop or threading.Event(), heartbeat)

    def batch(
        self, jobs: Sequence[Job], stop: threading.Event | None = None, heartbeat: float | None = None
    ) -> Iterator[InBatch | None]:
        """Run several jobs, overlapping where they decode elsewhere; see `backend.run.batch`.

        Raises:
            UnknownModelError, BadSettingError: of any, at once, before anything runs.
        """
        return self.executor.batch([self.resolve(job) for job in jobs], stop or threading.Event(), heartbeat)

    def forecast(
        self, model: str, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> dict[str, ExpectedCost]:
        """What each mode that runs here would take for a picture of that size, by the name of the mode."""
        request = StageRequest(direction, self.find_model(model), width, height, options)
        modes = [mode for mode in vae_modes(request.spec) if mode not in ("auto", "remote")]
        return {mode: self.planner.expect(request, mode) for mode in modes}

    def whole_share(self, model: str, width: int, height: int) -> float:
        """What a whole picture's VAE stages need at least, as a multiple of the memory that is free now."""
        spec, options = self.find_model(model), VaeOptions("whole")
        needs = [0]
        for direction in DIRECTIONS:
            expected = self.planner.expect(StageRequest(direction, spec, width, height, options), "whole")
            needs.append(expected.least_bytes or expected.peak_bytes or 0)
        return max(needs) / max(1, self.planner.device_state(spec).free_bytes)

    def fits_here(self, model: str, width: int, height: int) -> list[Fit]:
        """Whether each mode's VAE stages fit this machine; imports torch, loads nothing."""
        device_bytes = total_bytes(self.loader.device)
        return fits_here(self.find_model(model), width, height, device_bytes, self.planner.expect)

    def estimate(self, job: Job) -> Estimate:
        """What a job would take, before it runs; imports torch, but loads no model.

        Raises:
            UnknownModelError, BadSettingError: as the job itself would.
        """
        return self.planner.estimate(self.resolve(job))

    def departure(
        self, model: str, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> Departure | None:
        """What that stage would send to another computer; None if it stays here."""
        request = StageRequest(direction, self.find_model(model), width, height, options)
        return departure(request, self.context)

    def preflight(self, model: str, direction: Direction, options: VaeOptions) -> Preflight | None:
        """Whether the remote of that direction would work, in a sentence; None if it is this very app.

        Raises:
            LatentRelayError: no endpoint is known, or a visitor's own does not serve this model.
        """
        return check_remote(self.find_model(model), direction, self.context, options)

    def encode(
        self,
        image: Image.Image,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Notify = ignore,
    ) -> tuple[torch.Tensor, StageReport]:
        """A picture (any PIL mode; sides become multiples of the VAE's downscale) to scaled latents (1, C, h, w)."""
        spec = self.find_model(model)
        picture = images.to_rgb(image)
        multiple = spec.size_multiple
        width, height = (max(multiple, side // multiple * multiple) for side in picture.size)
        tensor = images.to_tensor(images.resize(picture, width, height))
        return self.executor.stage(encode_request(spec, tensor, options), stop, notify)

    def decode(
        self,
        latents: torch.Tensor,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Notify = ignore,
    ) -> tuple[Image.Image, StageReport]:
        """Scaled latents (1, C, h, w) to an RGB picture."""
        request = decode_request(self.find_model(model), latents, options, as_picture=True)
        pixels, report = self.executor.stage(request, stop, notify)
        return images.to_image(pixels), report

    def routes(self) -> list[Route]:
        """The VAE endpoint's routes, for the app that serves the page; building them loads nothing."""
        from backend.endpoint import Service, routes

        return routes(Service(self._served, token=self.settings.serve_token))

    def _served(self) -> list[Served]:
        """Every model that can run; its VAE is loaded with the first request and shared with the page."""
        from backend.endpoint import Served

        return [
            Served(
                name=spec.name,
                spec=spec.latents,
                load=partial(self.executor.vae, spec),
                queue=self.executor.queue,
                load_low_memory=partial(self.executor.vae, spec, low_memory=True),
                is_ready=partial(self.loader.has_vae, spec),
                title=spec.title,
            )
            for spec in self.models.values()
            if spec.available
        ]

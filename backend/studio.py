"""The one object the page, the API and the endpoint hold: settings, loaded models, VAE modes, img2img.

Making a Studio loads nothing; torch and diffusers come in with the first piece of work, or with `warm_up`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from backend import images
from backend.device.loading import Loader, default_model
from backend.events import Event, InBatch
from backend.job import Job, ResolvedJob, VaeOptions, vae_modes
from backend.models import MODELS, ModelSpec, add_model, find_model
from backend.placement.estimate import Estimate, estimate
from backend.placement.learned import Expectation
from backend.placement.shapes import Direction
from backend.report import StageReport
from backend.run import img2img
from backend.run.job_queue import JobQueue
from backend.run.stage import Notify, Stages, Work
from backend.run.zero_gpu import Decorator, LentVAE, ZeroGpu
from backend.settings import Settings

if TYPE_CHECKING:
    import torch
    from starlette.routing import Route

    from backend.endpoint import Served
    from backend.remote.preflight import Preflight
    from backend.vae.base import VAE

_JOBS_AT_ONCE = 4
"""More than one, so that the device works while another job is at a remote; few, so that a job begun is soon done."""


class Studio:
    """Thread-safe; one for each app."""

    def __init__(self, settings: Settings, lend: Decorator[Any] | None = None) -> None:
        """`lend`: `spaces.GPU`, on a Space whose graphics card is lent call by call."""
        self.settings = settings
        for spec in settings.local_models:
            add_model(spec)
        self.self_url: str | None = None
        """Base URL of this app once it listens, e.g. http://127.0.0.1:7860; the built-in model's remote."""
        self.loader = Loader(settings)
        self.job_queue = JobQueue(_JOBS_AT_ONCE, settings.queue)
        """Whole jobs, first come first served; inside, each stage takes its turn on the device."""
        self.stages = Stages(settings, self.loader, lambda: self.self_url)
        if lend is not None:
            self.stages.zero_gpu = ZeroGpu(lend, self.stages, self._run)

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """Every model this app offers, by name: the built-in table and the owner's own."""
        return MODELS

    def find_model(self, name: str) -> ModelSpec:
        """The model of that name.

        Raises:
            UnknownModelError: there is none, or it cannot run yet.
        """
        return find_model(name)

    def resolve(self, job: Job) -> ResolvedJob:
        """The job checked, with every open value filled in from its model.

        Raises:
            UnknownModelError, BadSettingError: with a sentence that says which value and its range.
        """
        return job.resolved()

    def default_model(self) -> tuple[ModelSpec, str]:
        """(model, friendly reason) for this machine, without importing torch where there is no GPU."""
        return default_model(self.settings)

    def warm_up(self, model: str | None = None) -> None:
        """Import the heavy libraries and load a model (the default one if None); for a thread after launch.

        Raises:
            LatentRelayError: the model cannot be had; the first job would say the same.
        """
        spec = find_model(model) if model else self.default_model()[0]

        def load() -> None:
            self.loader.vae(spec)
            self.loader.denoiser(spec)

        if self.stages.zero_gpu is not None:
            load()  # `spaces` stands in for the card on the main thread only
        else:
            self.loader.queue.run(load)

    def img2img(self, job: Job, stop: threading.Event | None = None) -> Iterator[Event]:
        """Run a job; see `backend.run.img2img.run`. Setting `stop` or closing the generator cancels it."""
        if self.stages.zero_gpu is not None:
            job.resolved()  # bad settings are refused before anything runs
            return self.stages.zero_gpu.job(job, stop or threading.Event())
        return self._run(job, stop)

    def _run(self, job: Job, stop: threading.Event | None = None) -> Iterator[Event]:
        return img2img.run(job, self.stages, self.loader, stop, self.job_queue)

    def batch(self, jobs: Sequence[Job], stop: threading.Event | None = None) -> Iterator[InBatch]:
        """Run several jobs, overlapping where they decode elsewhere; see `backend.run.img2img.run_batch`.

        On a lent card they run one after the other: it would have to be kept while others wait.
        """
        if self.stages.zero_gpu is not None:
            return img2img.one_by_one([job.resolved().job for job in jobs], self.img2img, stop)
        return img2img.run_batch(jobs, self.stages, self.loader, stop, self.job_queue)

    def forecast(
        self, model: str, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> dict[str, Expectation]:
        """What each mode that runs here would take for a picture of that size, by the name of the mode."""
        spec = find_model(model)
        return {
            mode: self.stages.expect(spec, direction, width, height, mode, options)
            for mode in vae_modes(spec)
            if mode not in ("auto", "remote")
        }

    def estimate(self, job: Job) -> Estimate:
        """What a job would take, before it runs; imports torch, but loads no model.

        Raises:
            UnknownModelError, BadSettingError: as the job itself would.
        """
        return estimate(job.resolved(), self.stages)

    def preflight(self, model: str, direction: Direction, options: VaeOptions) -> Preflight | None:
        """Whether the remote of that direction would work, in a sentence; None if it is this very app.

        Raises:
            LatentRelayError: no endpoint is known, or a visitor's own does not serve this model.
        """
        return self.stages.preflight(find_model(model), direction, options)

    def encode(
        self,
        image: Image.Image,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Notify = lambda _: None,
    ) -> tuple[torch.Tensor, StageReport]:
        """A picture (any PIL mode; sides become multiples of the VAE's downscale) to scaled latents on the CPU."""
        spec = find_model(model)
        picture = images.to_rgb(image)
        multiple = spec.size_multiple
        width, height = (max(multiple, side // multiple * multiple) for side in picture.size)
        work = Work("encode", spec, images.to_tensor(images.resize(picture, width, height)), options)
        return self.stages.run(work, stop, notify)

    def decode(
        self,
        latents: torch.Tensor,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Notify = lambda _: None,
    ) -> tuple[Image.Image, StageReport]:
        """Scaled latents (1, C, h, w) to an RGB picture."""
        pixels, report = self.stages.run(Work("decode", find_model(model), latents, options), stop, notify)
        return images.to_image(pixels), report

    def routes(self) -> list[Route]:
        """The VAE endpoint's routes, for the app that serves the page; building them loads nothing."""
        from backend.endpoint import Service, routes

        return routes(Service(self._served, token=self.settings.serve_token))

    def _served(self) -> list[Served]:
        """Every model that can run; its VAE is loaded with the first request and shared with the page."""
        from backend.endpoint import Served

        def serve(spec: ModelSpec) -> Served:
            def whole() -> VAE:
                if self.stages.zero_gpu is not None:
                    return LentVAE(spec, self.stages.run)
                from backend.vae.whole import Whole

                return Whole(self.loader.vae(spec), spec.latents)

            def leaner() -> VAE:
                if self.stages.zero_gpu is not None:
                    return LentVAE(spec, self.stages.run, leaner=True)
                from backend.vae.tiled import Tiled

                return Tiled(self.loader.vae(spec), spec.latents)

            return Served(
                name=spec.name,
                spec=spec.latents,
                load=whole,
                queue=self.loader.queue,
                load_low_memory=leaner,
                is_ready=lambda: self.loader.has_vae(spec),
                title=spec.title,
            )

        return [serve(spec) for spec in MODELS.values() if spec.available]

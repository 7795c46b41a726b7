"""A Studio that answers at once with the same events as the real one; no torch model is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image, ImageFilter

from backend.errors import Cancelled, LatentRelayError
from backend.events import Event, Failed, InBatch, Result, StageDone, StageStarted, Step, Waiting
from backend.job import Job, ResolvedJob, VaeOptions
from backend.message import Message, literal
from backend.models import BUILTIN, MODELS, ModelSpec, find_model
from backend.placement.estimate import Estimate
from backend.remote.preflight import Preflight
from backend.report import Cost, Direction, Stage, StageReport, Traffic
from backend.request import StageRequest
from backend.run.departure import Departure, most_bytes
from backend.run.stream import stream
from backend.settings import Settings

DOWNSCALE = BUILTIN.latents.downscale

HERE = Message("this computer’s processor")


def report(
    stage: Stage, mode: str = "whole", seconds: float = 0.2, *, requested: str | None = None, **more: Any
) -> StageReport:
    """A stage report with plausible numbers."""
    remote = mode == "remote"
    return StageReport(
        stage,
        mode,
        reason=Message("The whole picture fits: about {whole} of {free} free.", whole="40 MB", free="4.0 GB"),
        where=literal("vae.example.org") if remote else HERE,
        cost=Cost(seconds, "RAM", None if remote else 412_000_000, 380_000_000, 8_000_000_000),
        traffic=Traffic(104_000, 8_320, seconds * 0.7) if remote else None,
        requested_mode=requested or mode,
        **more,
    )


class FakeStudio:
    """`fail` maps a stage to the error that it raises once; `pause` is slept at each step."""

    def __init__(
        self, *, fail: dict[str, LatentRelayError] | None = None, pause: float = 0.0, model: str = "builtin"
    ) -> None:
        self.fail = fail or {}
        self.pause = pause
        self.jobs: list[Job] = []
        self.settings = Settings(model=model)
        self.self_url: str | None = None

    models = MODELS

    def find_model(self, name: str) -> ModelSpec:
        return find_model(name)

    def resolve(self, job: Job) -> ResolvedJob:
        return job.resolve(self.find_model(job.model))

    def default_model(self) -> tuple[ModelSpec, Message]:
        return (
            MODELS[self.settings.model],
            Message(
                "No graphics card was found, so this page starts with its small built-in model: it is "
                "quick, but it paints landscapes only."
            ),
        )

    def whole_share(self, model: str, width: int, height: int) -> float:
        return 0.1

    def routes(self) -> list[Any]:
        return []

    def estimate(self, job: Job) -> Estimate:
        self.resolve(job)
        return Estimate(4.2, 40_000_000, 4_000_000_000, self._mode(job.encode), self._mode(job.decode))

    def img2img(
        self, job: Job, stop: threading.Event | None = None, heartbeat: float | None = None
    ) -> Iterator[Event | None]:
        """As the real one does it: `events` run in a thread."""
        self.resolve(job)

        def work(stop: threading.Event, notify: Callable[[Event], None]) -> None:
            for event in self.events(job, stop):
                notify(event)

        return stream(work, stop or threading.Event(), heartbeat)

    def batch(
        self, jobs: Sequence[Job], stop: threading.Event | None = None, heartbeat: float | None = None
    ) -> Iterator[InBatch | None]:
        def work(stop: threading.Event, notify: Callable[[InBatch], None]) -> None:
            for item in self._batch(jobs, stop):
                notify(item)

        return stream(work, stop or threading.Event(), heartbeat)

    def _batch(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[InBatch]:
        """The last stage of each while the next is under way, as the real one does with a decode elsewhere."""
        behind: list[InBatch] = []
        for index, job in enumerate(jobs):
            try:
                for event in self.events(job, stop):
                    late = isinstance(event, Result) or getattr(event, "stage", "") == "decode"
                    late = late or (isinstance(event, StageDone) and event.report.stage == "decode")
                    if late:
                        behind.append(InBatch(index, event))
                        continue
                    yield InBatch(index, event)
                    if isinstance(event, Step):
                        yield from behind
                        behind = []
            except Cancelled:
                raise
            except LatentRelayError as error:
                behind.append(InBatch(index, Failed(error)))
        yield from behind

    def events(self, job: Job, stop: threading.Event) -> Iterator[Event]:
        import torch

        resolved = self.resolve(job)
        self.jobs.append(job)
        latents = torch.zeros(1, 4, resolved.height // DOWNSCALE, resolved.width // DOWNSCALE)
        encoded = report("encode", self._mode(job.encode), requested=job.encode.mode)
        yield Waiting(Message("Waiting for 1 other to finish"))
        yield self._begin("encode", encoded)
        yield StageDone(encoded, latents)
        denoised = report("denoise", "local", 1.5, steps=resolved.steps_to_run)
        yield self._begin("denoise", denoised)
        for step in range(1, resolved.steps_to_run + 1):
            if stop.wait(self.pause):
                raise Cancelled("Stopped.")
            look = job.image.convert("RGB").resize((64, 64)).filter(ImageFilter.GaussianBlur(4))
            yield Step(step, resolved.steps_to_run, look, (resolved.steps_to_run - step) * self.pause)
        yield StageDone(denoised, latents)
        decoded = report("decode", self._mode(job.decode), 0.4, requested=job.decode.mode)
        yield self._begin("decode", decoded)
        yield StageDone(decoded)
        image = job.image.convert("RGB").filter(ImageFilter.GaussianBlur(2))
        yield Result(image, latents, (encoded, denoised, decoded), resolved.recipe())

    def departure(
        self, model: str, direction: Direction, width: int, height: int, options: VaeOptions
    ) -> Departure | None:
        request = StageRequest(direction, self.find_model(model), width, height, options)
        remote = options.mode == "remote"
        return Departure(direction, "vae.example.org", most_bytes(request), surely=True) if remote else None

    def preflight(self, model: str, direction: str, options: VaeOptions) -> Preflight | None:
        sentence = f"The endpoint at {{where}} is ready: a tiny {direction} took {{took}}."
        return Preflight("ready", Message(sentence, where="vae.example.org", took="12 ms"), 0.012)

    def encode(
        self,
        image: Image.Image,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Callable[[Any], None] = lambda _: None,
    ) -> tuple[Any, StageReport]:
        import torch

        find_model(model)
        done = report("encode", self._mode(options), requested=options.mode)
        self._begin("encode", done)
        return torch.randn(1, 4, image.height // DOWNSCALE, image.width // DOWNSCALE), done

    def decode(
        self,
        latents: Any,
        model: str,
        options: VaeOptions,
        stop: threading.Event | None = None,
        notify: Callable[[Any], None] = lambda _: None,
    ) -> tuple[Image.Image, StageReport]:
        if stop is not None and stop.is_set():
            raise Cancelled("Stopped.")
        done = report("decode", self._mode(options), requested=options.mode)
        self._begin("decode", done)
        height, width = latents.shape[-2:]
        return Image.new("RGB", (width * DOWNSCALE, height * DOWNSCALE), "teal"), done

    def _begin(self, stage: str, done: StageReport) -> StageStarted:
        if stage in self.fail:
            raise self.fail.pop(stage)
        return StageStarted(done.stage, done.mode, done.reason, done.where)

    @staticmethod
    def _mode(options: VaeOptions) -> str:
        options.checked()
        return "whole" if options.mode == "auto" else options.mode

"""The calls that a ZeroGPU Space lends its card for, against a stand-in that forks and pickles as `spaces` does."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from backend import errors, wire
from backend.device.interrupt import raise_if_stopped
from backend.endpoint.compute import compute_alone
from backend.errors import BadSettingError, BusyError, Cancelled, LatentRelayError
from backend.events import Failed, Result, StageDone, Step
from backend.job import Job, VaeOptions
from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL
from backend.request import decode_request
from backend.run.zero_gpu import LONGEST, SHORTEST, USUAL, ZeroGpuExecutor, bounded, spaces_gpu
from backend.settings import Settings
from backend.studio import Studio
from tests.card_figures import CardFigures
from tests.factories import copy_of
from tests.waiting import wait_until

WHOLE = VaeOptions("whole")


class Lender:
    """Stands in for the package `spaces`: notes each call, and pickles all that goes in and out.

    With `fork` each task runs in a forked process, plain functions and generators alike, which stays for later calls.
    """

    def __init__(self, fork: bool = False) -> None:
        self.fork = fork
        self.calls: list[tuple[str, float]] = []
        self.closed = 0
        self.refuse: Exception | None = None
        """What to raise instead of lending, as for a quota that is used up."""
        self.workers: dict[str, Worker] = {}

    def GPU(self, *, duration: Callable[..., float]) -> Callable[[Any], Any]:  # noqa: N802 - the package's name
        def decorate(task: Any) -> Any:
            def noted(args: Any) -> Any:
                assert not torch.is_inference_mode_enabled()
                self.calls.append((task.__name__, duration(*args)))
                if self.refuse is not None:
                    raise self.refuse
                return pickle.loads(pickle.dumps(args))

            def generator(*args: Any) -> Iterator[Any]:
                source = self._in_worker(task, noted(args)) if self.fork else task(*noted(args))
                try:
                    for value in source:
                        yield pickle.loads(pickle.dumps(value))
                finally:
                    self.closed += 1
                    source.close()

            def plain(*args: Any) -> Any:
                if self.fork:
                    (value,) = self._in_worker(task, noted(args))
                    return value
                return pickle.loads(pickle.dumps(task(*noted(args))))

            return generator if inspect.isgeneratorfunction(task) else plain

        return decorate

    def _in_worker(self, task: Any, args: Any) -> Generator[Any, None, None]:
        """In the worker that the last call left, or in a new one while that is busy."""
        worker = self.workers.pop(task.__name__, None)
        if worker is None or not worker.process.is_alive():
            worker = Worker(task)
        yield from worker.call(args)
        if (before := self.workers.get(task.__name__)) is not None:
            before.end()
        self.workers[task.__name__] = worker

    def close(self) -> None:
        """End the processes: each holds copies of what was open here, pipes to other programs among it."""
        for worker in self.workers.values():
            worker.end()


class Worker:
    """A forked process that runs one task for whoever comes, one call after the other."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.pipe, self.inner = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._serve, daemon=True)
        self.process.start()

    def _serve(self) -> None:
        while True:
            answer = self.task(*pickle.loads(self.inner.recv_bytes()))
            for value in answer if inspect.isgenerator(answer) else (answer,):
                self.inner.send((os.getpid(), pickle.dumps(value)))
            self.inner.send(None)

    def call(self, args: Any) -> Generator[Any, None, None]:
        self.pipe.send_bytes(pickle.dumps(args))
        ended = False
        try:
            while True:
                assert self.pipe.poll(60), "`spaces` would kill it at the end of its time"
                if (item := self.pipe.recv()) is None:
                    ended = True
                    return
                assert item[0] != os.getpid()
                yield pickle.loads(item[1])
        finally:
            if not ended:
                self.end()

    def end(self) -> None:
        self.process.terminate()
        self.process.join(10)


@pytest.fixture
def lender() -> Lender:
    return Lender()


@pytest.fixture
def lent(lender: Lender) -> Studio:
    return Studio(Settings(device="cpu"), lender.GPU)


@pytest.fixture
def forking() -> Iterator[Lender]:
    if sys.platform != "linux":
        pytest.skip("Spaces run on Linux")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's do not survive a fork
    with contextlib.closing(Lender(fork=True)) as lender:
        yield lender
    torch.set_num_threads(threads)


def executor_of(studio: Studio) -> ZeroGpuExecutor:
    assert isinstance(studio.executor, ZeroGpuExecutor)
    return studio.executor


def job(picture: Image.Image, **changes: Any) -> Job:
    base = Job(picture, "a lake", strength=0.5, num_inference_steps=6, seed=3, width=96, height=64)
    return replace(base, **{"encode": WHOLE, "decode": WHOLE, **changes})


def test_only_a_zero_gpu_space_lends(monkeypatch: pytest.MonkeyPatch, lender: Lender) -> None:
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=lender.GPU))
    assert spaces_gpu({}) is None and spaces_gpu({"SPACES_ZERO_GPU": "false"}) is None
    assert spaces_gpu({"SPACES_ZERO_GPU": "true"}) == lender.GPU


def test_a_job_is_one_call_with_the_same_picture(
    studio: Studio, lent: Studio, lender: Lender, picture: Image.Image
) -> None:
    events = list(lent.img2img(job(picture)))
    assert [name for name, _ in lender.calls] == ["_job"], "encode and decode are inside"
    assert [e.report.stage for e in events if isinstance(e, StageDone)] == ["encode", "denoise", "decode"]
    plain = list(studio.img2img(job(picture)))[-1]
    last = events[-1]
    assert isinstance(last, Result) and isinstance(plain, Result)
    assert last.image.tobytes() == plain.image.tobytes()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # that is what `spaces` does
def test_the_long_lived_thread_works_in_a_forked_process(forking: Lender, picture: Image.Image) -> None:
    """Nothing is computed in the parent, whose OpenMP a fork would not survive."""
    lent = Studio(Settings(device="cpu"), forking.GPU)
    last = list(lent.img2img(job(picture)))[-1]
    assert isinstance(last, Result) and last.image.size == (96, 64)


def test_a_stage_is_one_call(lent: Studio, lender: Lender, studio: Studio, picture: Image.Image) -> None:
    latents, report = lent.encode(picture, "builtin", WHOLE)
    image, _ = lent.decode(latents, "builtin", VaeOptions("auto"))
    assert [name for name, _ in lender.calls] == ["_stage", "_stage"]
    assert report.mode == "whole" and image.size == (96, 64)
    assert torch.equal(latents, studio.encode(picture, "builtin", WHOLE)[0])


def test_a_remote_stage_needs_no_card(
    lent: Studio, lender: Lender, studio: Studio, picture: Image.Image
) -> None:
    lent.self_url = studio.self_url
    lent.encode(picture, "builtin", VaeOptions("remote"))
    assert lender.calls == []


def test_errors_come_back_as_they_were(
    lent: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSettingError, match="strength"):
        lent.img2img(job(picture, strength=7.0))

    def fail(*_: Any, **__: Any) -> Any:
        raise errors.RemoteRefusedError("No.", "Ask again.", url="http://x", status=403)

    monkeypatch.setattr(executor_of(lent).local, "stage", fail)
    with pytest.raises(errors.RemoteRefusedError) as caught:
        lent.encode(picture, "builtin", WHOLE)
    assert caught.value.status == 403 and caught.value.sentence == "No. Ask again."


def test_every_error_of_ours_survives_the_way() -> None:
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, LatentRelayError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        back = pickle.loads(pickle.dumps(Failed(kind("One.", "Two.")))).error
        assert type(back) is kind and back.sentence == "One. Two."


def test_stopping_gives_the_card_back(lent: Studio, lender: Lender, picture: Image.Image) -> None:
    stop = threading.Event()
    with pytest.raises(Cancelled):
        for event in lent.img2img(job(picture, num_inference_steps=100, strength=1.0), stop):
            if isinstance(event, Step):
                stop.set()
    assert lender.closed == 1
    wait_until(lambda: lent.loader.queue.waiting == 0)
    with pytest.raises(Cancelled):
        raise_if_stopped(stop)


def test_a_batch_lends_once_for_each(lent: Studio, lender: Lender, picture: Image.Image) -> None:
    events = list(lent.batch([job(picture), job(picture, seed=4)]))
    assert len(lender.calls) == 2 and [e.index for e in events if isinstance(e.event, Result)] == [0, 1]


def test_what_is_asked_for_follows_steps_size_and_model(lent: Studio, picture: Image.Image) -> None:
    zero = executor_of(lent)

    def seconds(model: str, steps: int, side: int) -> int:
        asked = Job(
            picture, "", model=model, strength=1.0, num_inference_steps=steps, width=side, height=side
        )
        return zero.job_seconds(lent.resolve(asked))

    assert seconds("builtin", 4, 64) == SHORTEST
    assert seconds(SD_V1.name, 20, 512) < seconds(SD_V1.name, 40, 512) < seconds(SD_V1.name, 40, 768)
    assert seconds(SD_V1.name, 30, 512) < seconds(SDXL.name, 30, 1024)
    with pytest.raises(BadSettingError, match="lent for 120"):
        seconds(FLUX.name, 150, 2048)
    large = decode_request(SDXL, torch.zeros(1, 4, 256, 256), WHOLE)
    assert (
        SHORTEST
        <= zero.stage_seconds(decode_request(SDXL, torch.zeros(1, 4, 8, 8), WHOLE))
        <= zero.stage_seconds(large)
    )


def test_it_learns_from_what_came_back(lent: Studio, picture: Image.Image) -> None:
    assert lent.planner.expect_denoise(lent.resolve(job(picture))).seconds is None
    list(lent.img2img(job(picture)))
    assert lent.planner.expect_denoise(lent.resolve(job(picture))).seconds is not None


DAY = 120
"""Seconds of a card that an anonymous visitor has a day."""


def test_a_default_job_fits_a_visitor_s_day_several_times(lent: Studio, picture: Image.Image) -> None:
    zero = executor_of(lent)
    for spec in MODELS.values():
        asked = zero.job_seconds(lent.resolve(Job(picture, "", model=spec.name)))
        assert SHORTEST <= asked <= DAY / 4, spec.name


def test_a_long_job_asks_for_no_margin_and_one_that_is_too_long_is_not_begun(
    lent: Studio, lender: Lender, picture: Image.Image
) -> None:
    assert bounded(0) == SHORTEST and bounded(20) == 36
    assert bounded(40) == USUAL and bounded(80) == 86 and bounded(114) == LONGEST == DAY
    with pytest.raises(BadSettingError, match="about 121 seconds"):
        bounded(115)
    long = job(picture, model=SDXL.name, strength=1.0, num_inference_steps=150, width=2048, height=2048)
    with pytest.raises(BadSettingError, match="lent for 120 at most"):
        list(lent.img2img(long))
    assert lender.calls == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_space_s_own_endpoint_computes_on_a_lent_card_beside_the_page(
    forking: Lender, picture: Image.Image
) -> None:
    """The fork happens while the queue of the endpoint holds the request: nothing of it is waited for over there."""
    lent = Studio(Settings(device="cpu"), forking.GPU)
    (served,) = (one for one in lent._served() if one.name == "builtin")
    latents = torch.zeros(1, 4, 16, 16)
    beside: list[Any] = []
    page = threading.Thread(target=lambda: beside.append(lent.decode(latents, "builtin", WHOLE)))
    computed = compute_alone(served, "decode", latents, wire.CONFIGURED)
    page.start()
    again = compute_alone(served, "decode", latents, wire.CONFIGURED)
    page.join(60)
    assert computed.tensor.shape == (1, 3, 64, 64) and torch.equal(computed.tensor, again.tensor)
    assert beside and beside[0][0].size == (64, 64)
    assert [name for name, _ in forking.calls] == ["_stage"] * 3


def test_a_remote_stage_asks_nothing_of_a_card_that_is_not_lent(
    lent: Studio, studio: Studio, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`spaces` stands in for a card's names and figures in this process, not for its counter of peaks."""
    CardFigures().pretend(monkeypatch)

    def bad(*_: Any) -> Any:
        raise RuntimeError("Invalid device argument 0: did you call init?")

    for name in ("reset_peak_memory_stats", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, bad)
    lent.loader._device = torch.device("cuda", 0)
    lent.self_url = studio.self_url
    latents, report = lent.encode(picture, "builtin", VaeOptions("remote"))
    lent.decode(latents, "builtin", VaeOptions("remote"))
    assert report.mode == "remote" and report.cost.peak_bytes is None


class Error(Exception):
    """As gradio's: its sentence is in `message`."""

    __module__ = "gradio.exceptions"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def test_a_quota_that_is_used_up_reaches_the_page_as_it_is_and_an_endpoint_as_busy(
    lent: Studio, lender: Lender, picture: Image.Image
) -> None:
    lender.refuse = Error("You have exceeded your free ZeroGPU quota (60s requested vs. 12s left).")
    with pytest.raises(Error, match="quota"):
        list(lent.img2img(job(picture)))
    with pytest.raises(Error, match="quota"):
        lent.encode(picture, "builtin", WHOLE)
    (served,) = (one for one in lent._served() if one.name == "builtin")
    with pytest.raises(BusyError, match="12s left") as caught:
        compute_alone(served, "decode", torch.zeros(1, 4, 16, 16), wire.CONFIGURED)
    assert caught.value.code == "busy"
    lender.refuse = ZeroDivisionError("a fault of ours")
    with pytest.raises(ZeroDivisionError):
        compute_alone(served, "decode", torch.zeros(1, 4, 16, 16), wire.CONFIGURED)


def test_what_was_loaded_before_the_fork_stays(picture: Image.Image, tmp_path: Path) -> None:
    """Its files are gone by then, and the process for the card serves another visitor next, with another model."""
    other = copy_of(BUILTIN, tmp_path / "other", "other")
    lent = Studio(Settings(device="cpu", local_models=(other,)), Lender().GPU)
    lent.warm_up()
    before = {(held.model, held.part) for held in lent.loader.loaded()}
    vae = lent.loader.vae(BUILTIN)
    list(lent.img2img(job(picture, model="other")))
    held = {(held.model, held.part) for held in lent.loader.loaded()}
    assert before < held and lent.loader.vae(BUILTIN) is vae
    assert lent.loader.reduce_memory(BUILTIN) is not None, "the other model's goes"
    assert {(held.model, held.part) for held in lent.loader.loaded()} == before
    assert lent.loader.reduce_memory(BUILTIN) is None


def test_gradio_s_folder_is_known_before_spaces_imports_gradio(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that it is put back
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    seen: list[str | None] = []

    def imports_gradio(environ: Mapping[str, str]) -> None:
        seen.append(environ.get("GRADIO_TEMP_DIR"))
        raise ImportError("far enough")

    monkeypatch.setattr(app, "spaces_gpu", imports_gradio)
    with pytest.raises(ImportError, match="far enough"):
        app.serve(Settings(device="cpu", folder=tmp_path))
    assert seen == [str(tmp_path / "temp")]


# -- the package itself, where it is installed ----------------------------------------------------------------------


@pytest.fixture
def real_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`spaces.GPU` with its own wrappers, workers and pickling; only its server and the card are stood in for."""
    pytest.importorskip("spaces", reason="needs the package `spaces`")
    if not hasattr(torch._C, "_cuda_init"):
        pytest.skip("`spaces` patches what only a torch built for CUDA has")
    wrappers = importlib.import_module("spaces.zero.wrappers")
    lease = SimpleNamespace(allowToken="token", nvidiaIndex=0, nvidiaUUID="uuid", idle=True)
    for owner, name, value in (
        (wrappers.client, "schedule", lambda **_: lease),
        (wrappers.client, "release", lambda *_, **__: None),
        (wrappers.client, "allow", lambda *_: None),
        (wrappers.client, "get_duration_seconds", lambda *_: 60),
        (wrappers.torch, "unpatch", lambda: None),
        (wrappers.torch, "init", lambda _: None),
        (wrappers.torch, "size", lambda: 0),
        (wrappers.torch, "move", lambda **_: None),
    ):
        monkeypatch.setattr(owner, name, value, raising=False)

    def gpu(*, duration: Any) -> Callable[[Any], Any]:
        def decorate(task: Any) -> Any:
            kind = "generator" if inspect.isgeneratorfunction(task) else "regular"
            return getattr(wrappers, f"{kind}_function_wrapper")(task, duration, None)

        return decorate

    return gpu


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_with_the_package_spaces_itself(
    real_gpu: Callable[..., Any], picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint request, a stage, a job, two models in one process, a stop, and a quota error."""
    import gradio
    from spaces.zero import client

    other = copy_of(BUILTIN, tmp_path / "other", "other")
    torch.set_num_threads(1)
    lent = Studio(Settings(device="cpu", local_models=(other,)), real_gpu)
    (served,) = (one for one in lent._served() if one.name == "builtin")
    computed = compute_alone(served, "decode", torch.zeros(1, 4, 16, 16), wire.CONFIGURED)
    assert computed.tensor.shape == (1, 3, 64, 64)
    assert lent.encode(picture, "builtin", WHOLE)[0].shape == (1, 4, 16, 24)
    for model in ("builtin", "other", "builtin"):
        last = list(lent.img2img(job(picture, model=model)))[-1]
        assert isinstance(last, Result)
    stop = threading.Event()
    with pytest.raises(Cancelled):
        for event in lent.img2img(job(picture, num_inference_steps=100, strength=1.0), stop):
            if isinstance(event, Step):
                stop.set()

    def over(**_: Any) -> Any:
        raise gradio.Error("You have exceeded your free ZeroGPU quota.")

    monkeypatch.setattr(client, "schedule", over)
    with pytest.raises(gradio.Error, match="quota"):
        lent.encode(picture, "builtin", WHOLE)
    with pytest.raises(BusyError, match="quota"):
        compute_alone(served, "decode", torch.zeros(1, 4, 16, 16), wire.CONFIGURED)

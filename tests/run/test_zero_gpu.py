"""The calls that a ZeroGPU Space lends its card for, against a stand-in that forks and pickles as `spaces` does."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from backend import errors
from backend.device.interrupt import raise_if_stopped
from backend.errors import BadSettingError, Cancelled, LatentRelayError
from backend.events import Failed, Result, StageDone, Step
from backend.job import Job, VaeOptions
from backend.models import FLUX, SD_V1, SDXL
from backend.request import decode_request
from backend.run.zero_gpu import LONGEST, SHORTEST, ZeroGpuExecutor, spaces_gpu
from backend.settings import Settings
from backend.studio import Studio
from tests.waiting import wait_until

WHOLE = VaeOptions("whole")


class Lender:
    """Stands in for the package `spaces`: notes each call, and pickles all that goes in and out."""

    def __init__(self, fork: bool = False) -> None:
        self.fork = fork
        self.calls: list[tuple[str, float]] = []
        self.closed = 0

    def GPU(self, *, duration: Callable[..., float]) -> Callable[[Any], Any]:  # noqa: N802 - the package's name
        def decorate(task: Any) -> Any:
            def noted(args: Any) -> Any:
                assert not torch.is_inference_mode_enabled()
                self.calls.append((task.__name__, duration(*args)))
                return pickle.loads(pickle.dumps(args))

            def generator(*args: Any) -> Iterator[Any]:
                source = self._forked(task, noted(args)) if self.fork else task(*noted(args))
                try:
                    for value in source:
                        yield pickle.loads(pickle.dumps(value))
                finally:
                    self.closed += 1
                    source.close()

            def plain(*args: Any) -> Any:
                return pickle.loads(pickle.dumps(task(*noted(args))))

            return generator if inspect.isgeneratorfunction(task) else plain

        return decorate

    def _forked(self, task: Any, args: Any) -> Iterator[Any]:
        """In a forked process, as on a Space."""
        receiver, sender = multiprocessing.Pipe(duplex=False)

        def child() -> None:
            for value in task(*args):
                sender.send((os.getpid(), pickle.dumps(value)))
            sender.send(None)

        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
        try:
            while receiver.poll(120) and (item := receiver.recv()) is not None:
                assert item[0] != os.getpid()
                yield pickle.loads(item[1])
        finally:
            process.terminate()
            process.join(10)


@pytest.fixture
def lender() -> Lender:
    return Lender()


@pytest.fixture
def lent(lender: Lender) -> Studio:
    return Studio(Settings(device="cpu"), lender.GPU)


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


@pytest.mark.skipif(sys.platform != "linux", reason="Spaces run on Linux")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # that is what `spaces` does
def test_the_long_lived_thread_works_in_a_forked_process(picture: Image.Image) -> None:
    """Nothing is computed in the parent, whose OpenMP a fork would not survive."""
    lender = Lender(fork=True)
    lent = Studio(Settings(device="cpu"), lender.GPU)
    torch.set_num_threads(1)
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
    assert seconds(FLUX.name, 150, 2048) == LONGEST
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

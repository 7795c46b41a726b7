"""When memory runs out: what was held is let go, a leaner way is tried and reported, and the next job runs.

There is no card here, so the allocators' own errors are raised inside the networks, from a hook.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from backend.errors import OutOfMemoryError
from backend.events import Result, StageDone
from backend.job import Job, VaeOptions
from backend.models import BUILTIN
from backend.report import StageReport
from backend.settings import Settings
from backend.studio import Studio

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
PROCESSOR = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes.")
MAC = RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)")


@pytest.fixture(scope="module")
def own() -> Studio:
    """A Studio of its own: these tests drop what it has loaded."""
    studio = Studio(Settings(device="cpu", model="builtin"))
    studio.warm_up()
    return studio


class Hungry:
    """Makes a network fail the first `times` calls; `held` is what the failing call had allocated."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error = error
        self.left = times
        self.calls = 0
        self.held: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            activation = torch.zeros(1000)
            self.held.append(weakref.ref(activation))
            raise self.error

    @contextlib.contextmanager
    def inside(self, module: torch.nn.Module) -> Iterator[Hungry]:
        hook = module.register_forward_pre_hook(self)
        try:
            yield self
        finally:
            hook.remove()


def job(picture: Image.Image, **more: Any) -> Job:
    base = Job(picture, "a lake", seed=3, strength=0.5, num_inference_steps=4, width=64, height=64)
    return replace(base, **more)


def paint(studio: Studio, wish: Job) -> tuple[Result, dict[str, StageReport]]:
    *_, last = studio.img2img(wish)
    assert isinstance(last, Result)
    return last, {report.stage: report for report in last.reports}


@pytest.mark.parametrize("error", [CUDA, PROCESSOR, MAC, MemoryError()], ids=["cuda", "cpu", "mps", "python"])
def test_decoding_goes_down_the_ladder_and_says_so(
    own: Studio, picture: Image.Image, error: BaseException
) -> None:
    vae = own.loader.vae(BUILTIN)
    with Hungry(error, times=1).inside(vae.decoder) as hungry:
        _, reports = paint(own, job(picture))
    assert hungry.calls == 1 and reports["decode"].mode == "streamed"
    assert "“whole” was tried first and ran out of memory." in str(reports["decode"].reason)
    assert hungry.held[0]() is None


def test_a_mode_that_was_chosen_is_not_changed_and_what_was_painted_is_kept(
    own: Studio, picture: Image.Image
) -> None:
    done: list[StageDone] = []
    with Hungry(CUDA, times=9).inside(own.loader.vae(BUILTIN).decoder) as hungry:
        with pytest.raises(OutOfMemoryError, match="“whole”") as caught:
            for event in own.img2img(job(picture, decode=VaeOptions("whole"))):
                if isinstance(event, StageDone):
                    done.append(event)
        # The error is still held, as the page holds it while it tells about it; what did not fit is not.
        assert caught.value is not None and hungry.held[0]() is None
    assert [event.report.stage for event in done] == ["encode", "denoise"]
    _, reports = paint(own, job(picture))
    assert reports["decode"].mode == "whole", "the next job runs as if nothing had been"


def test_painting_tries_again_without_the_vae_and_gives_the_same_picture(
    own: Studio, picture: Image.Image
) -> None:
    expected, _ = paint(own, job(picture))
    with Hungry(CUDA, times=1).inside(own.loader.denoiser(BUILTIN).unet) as hungry:
        result, reports = paint(own, job(picture))
    assert "It ran out of memory, so the VAE was taken out of memory and it ran again." in str(
        reports["denoise"].reason
    )
    assert result.image.tobytes() == expected.image.tobytes()
    assert hungry.held[0]() is None


def test_painting_that_never_fits_ends_with_a_sentence_and_the_next_job_runs(
    own: Studio, picture: Image.Image
) -> None:
    with (
        Hungry(CUDA, times=99).inside(own.loader.denoiser(BUILTIN).unet) as hungry,
        pytest.raises(OutOfMemoryError, match="not enough memory to paint") as caught,
    ):
        paint(own, job(picture))
    assert hungry.calls == 2, "once more without the VAE, and no more"
    gc.collect()
    assert caught.value.hint == "Please choose a smaller size."
    assert all(ref() is None for ref in hungry.held)
    assert own.loader.queue.waiting == 0 and own.job_queue.waiting == 0
    paint(own, job(picture))


def test_what_can_still_be_taken_off_the_device(own: Studio) -> None:
    own.warm_up()
    assert str(own.loader.reduce_memory(BUILTIN)) == "the VAE was taken out of memory"
    assert [held.part for held in own.loader.loaded()] == ["denoiser"]
    assert own.loader.reduce_memory(BUILTIN) is None, "a processor has no card to take weights from"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_card_keeps_less_and_less_of_the_model(picture: Image.Image) -> None:
    studio = Studio(Settings(device="cuda", model="builtin"))
    studio.warm_up()
    said = []
    while (done := studio.loader.reduce_memory(BUILTIN)) is not None:
        said.append(str(done))
        paint(studio, job(picture))
    assert said[0] == "the VAE was taken out of memory"
    assert [words for words in said if "card" in words] == [
        "only the network at work was kept on the card",
        "only the layer at work was kept on the card",
    ]

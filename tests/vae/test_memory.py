"""What is loaded can be asked, and another model's loading gives the first one's memory back."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from backend.device.loading import Loader
from backend.events import Result, Waiting
from backend.job import Job, VaeOptions
from backend.models import ModelSpec
from backend.settings import Settings
from backend.studio import Studio
from tests.factories import copy_of, tiny_model
from tests.waiting import occupied

WHOLE = VaeOptions("whole")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSpec]:
    """Three different models of the same size."""
    folder = tmp_path_factory.mktemp("models")
    first = tiny_model("sd", folder / "a")
    return [first, *(copy_of(first, folder / name, f"tiny-{name}") for name in "bc")]


def live_weight_bytes() -> int:
    """Of all parameters that exist in this process, in whatever hands."""
    gc.collect()
    return sum(
        thing.numel() * thing.element_size()
        for thing in gc.get_objects()
        if type(thing) is torch.nn.Parameter
    )


def test_what_is_loaded_can_be_asked(models: list[ModelSpec]) -> None:
    loader = Loader(Settings(device="cpu"))
    assert loader.loaded() == ()
    loader.denoiser(models[0])
    loader.vae(models[0])
    denoiser, vae = loader.loaded()
    assert (denoiser.model, denoiser.part, vae.part) == ("tiny-sd", "denoiser", "VAE")
    assert vae.bytes == sum(weight.numel() * 4 for weight in loader.vae(models[0]).parameters())
    assert denoiser.bytes > vae.bytes > 0 and denoiser.dtype == "float32"
    loader.free()
    assert loader.loaded() == ()


def test_switching_models_gives_the_memory_back(models: list[ModelSpec]) -> None:
    loader = Loader(Settings(device="cpu"))
    before = live_weight_bytes()
    loader.denoiser(models[0])
    loader.vae(models[0])
    one = live_weight_bytes() - before
    for spec in (*models[1:], models[0]):
        loader.denoiser(spec)
        loader.vae(spec)
        assert live_weight_bytes() - before == one, "one model's worth, whichever it is"
        assert {held.model for held in loader.loaded()} == {spec.name}
    loader.free()
    assert live_weight_bytes() == before


def test_a_vae_of_another_model_may_stay_but_not_two(models: list[ModelSpec]) -> None:
    loader = Loader(Settings(device="cpu"))
    loader.denoiser(models[0])
    for spec in models:
        loader.vae(spec)
    assert [(held.model, held.part) for held in loader.loaded()] == [
        ("tiny-sd", "denoiser"),
        ("tiny-b", "VAE"),
        ("tiny-c", "VAE"),
    ]


def test_two_people_on_different_models_wait_for_each_other(
    models: list[ModelSpec], picture: Image.Image
) -> None:
    """Loading waits for its turn as well, so nobody's model is freed while it computes."""
    studio = Studio(Settings(device="cpu", local_models=tuple(models[:2])))
    jobs = [
        Job(
            picture,
            "a lake",
            model=spec.name,
            strength=0.5,
            num_inference_steps=4,
            seed=1,
            width=64,
            height=64,
        )
        for spec in models[:2]
    ]
    results: dict[str, Any] = {}
    waits: list[str] = []

    def run(job: Job) -> None:
        for event in studio.img2img(replace(job, encode=WHOLE, decode=WHOLE)):
            if isinstance(event, Waiting):
                waits.append(str(event.message))
            results[job.model] = event

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    with occupied(studio.loader.queue):
        for thread in threads:
            thread.start()
        while studio.loader.queue.waiting < 3:
            pass
        assert studio.loader.loaded() == (), "nobody loads before the turn"
    for thread in threads:
        thread.join(60)
    assert all(isinstance(result, Result) for result in results.values()) and len(results) == 2
    assert any("Waiting for" in wait for wait in waits)
    assert torch.equal(results["tiny-sd"].latents, results["tiny-b"].latents), "the same weights"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("how", ["model", "group"])
def test_low_memory_gives_the_same_latents_with_less_on_the_card(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch, family: str, how: str
) -> None:
    spec = tiny_model(family, tmp_path)
    job = Job(
        picture, "a lake", model=spec.name, seed=1, width=64, height=64, strength=0.5, num_inference_steps=4
    )
    kept: list[torch.Tensor] = []
    held: list[int] = []
    for low_memory in ("none", how):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        studio = Studio(Settings(device="cuda", low_memory=low_memory, local_models=(spec,)))
        studio.loader.denoiser(spec)
        held.append(torch.cuda.memory_allocated() - before)
        *_, last = studio.img2img(job)
        assert isinstance(last, Result)
        kept.append(last.latents)
        studio.loader.free()
    assert held[1] < held[0] / 4
    assert torch.allclose(kept[0], kept[1], atol=1e-3)

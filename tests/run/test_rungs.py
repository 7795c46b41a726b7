"""A card that is full while something is loaded, encoded, painted or decoded: less and less is kept on it, and said."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from PIL import Image

from backend.errors import Cancelled, NonFiniteError, OutOfMemoryError
from backend.events import Result, Step
from backend.job import Job, VaeOptions
from backend.models import BUILTIN
from backend.report import StageReport
from backend.settings import LOW_MEMORY, Settings
from backend.studio import Studio
from tests.card_figures import GB, OUT_OF_MEMORY, CardFigures, CardLoader


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> CardFigures:
    figures = CardFigures()
    figures.pretend(monkeypatch)
    return figures


def studio_with(*full: str, low_memory: str = "none") -> tuple[Studio, CardLoader]:
    settings = Settings(model="builtin", low_memory=low_memory)
    loader = CardLoader(settings, *full)
    return Studio(settings, loader=loader), loader


def job(picture: Image.Image, **more: Any) -> Job:
    base = Job(picture, "a lake", seed=3, strength=0.5, num_inference_steps=4, width=64, height=64)
    return replace(base, **more)


def paint(studio: Studio, wanted: Job) -> tuple[Result, dict[str, StageReport]]:
    *_, last = studio.img2img(wanted)
    assert isinstance(last, Result)
    return last, {report.stage: report for report in last.reports}


class Full:
    """In place of a network's method: raises at the first `times` calls."""

    def __init__(self, patch: pytest.MonkeyPatch, network: type, method: str, times: int) -> None:
        original, self.left = getattr(network, method), times

        def replaced(module: Any, *args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise OUT_OF_MEMORY
            return original(module, *args, **kwargs)

        patch.setattr(network, method, replaced)


def test_a_full_card_while_loading_leads_down_the_rungs(card: CardFigures, picture: Image.Image) -> None:
    studio, loader = studio_with("none", "none", "model")
    _, reports = paint(studio, job(picture))
    assert [chosen.low_memory for chosen in loader.placed] == ["none", "none", "model", "group"]
    reason = str(reports["denoise"].reason)
    for said in ("the VAE was taken out", "only the network at work", "only the layer at work"):
        assert said in reason
    assert "card" in card.emptied
    paint(studio, job(picture))
    assert len(loader.placed) == 4, "it is remembered and kept"


def test_what_never_fits_ends_with_a_sentence_and_the_next_job_runs(
    card: CardFigures, picture: Image.Image
) -> None:
    studio, loader = studio_with(*LOW_MEMORY, *LOW_MEMORY)
    with pytest.raises(OutOfMemoryError, match="not enough memory to load Built-in"):
        paint(studio, job(picture))
    loader.full.clear()
    paint(studio, job(picture))


def test_the_vae_makes_room_for_itself(card: CardFigures, picture: Image.Image) -> None:
    studio, loader = studio_with()
    loader.denoiser(BUILTIN)
    loader.full.append("VAE")
    _, reports = paint(studio, job(picture))
    assert "There was no room to load it, so the painting network was taken out of memory." in str(
        reports["encode"].reason
    )
    assert [chosen.low_memory for chosen in loader.placed] == ["none", "model"], "so that both fit next time"
    assert "only the network at work" in str(reports["denoise"].reason)


def test_the_vae_that_never_fits_is_refused_in_words(card: CardFigures, picture: Image.Image) -> None:
    studio, _ = studio_with(*["VAE"] * 9)
    with pytest.raises(OutOfMemoryError, match="not enough memory to load"):
        studio.encode(picture, "builtin", VaeOptions("whole"))
    assert studio.loader.queue.waiting == 0


@pytest.mark.parametrize("low_memory", LOW_MEMORY)
@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_out_of_memory_at_each_stage_on_each_rung(
    stage: str, low_memory: str, card: CardFigures, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, loader = studio_with(low_memory=low_memory)
    expected, _ = paint(studio, job(picture, encode=VaeOptions("whole"), decode=VaeOptions("whole")))
    if stage == "denoise":
        Full(monkeypatch, UNet2DConditionModel, "forward", times=2)
    else:
        Full(monkeypatch, AutoencoderKL, stage, times=1)
    result: Result | None = None
    try:
        result, reports = paint(studio, job(picture))
    except OutOfMemoryError:
        assert (stage, low_memory) == ("denoise", "group"), "nothing is left below"
    else:
        assert "ran out of memory" in str(reports[stage].reason)
        assert (reports[stage].mode == "streamed") is (stage != "denoise")
    if stage == "denoise" and result is not None:
        assert result.image.tobytes() == expected.image.tobytes()
        following = LOW_MEMORY[LOW_MEMORY.index(low_memory) + 1]
        assert loader.placed[-1].low_memory == following and "card" in str(reports[stage].reason)
    paint(studio, job(picture))


def test_what_does_not_fit_anywhere_is_not_loaded(
    card: CardFigures, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.device.loading.free_ram", lambda: 1000)
    card.free = 1000
    _, loader = studio_with()
    with pytest.raises(OutOfMemoryError, match="too large for this computer") as caught:
        loader.denoiser(BUILTIN)
    assert "free" in caught.value.hint and loader.placed == []


def test_the_rung_is_chosen_before_loading_and_its_reason_reported(
    card: CardFigures, picture: Image.Image
) -> None:
    _, loader = studio_with()
    pipeline_bytes = 13 * 10**6  # the built-in networks, about; the largest is smaller
    card.free = pipeline_bytes
    loader.denoiser(BUILTIN)
    assert loader.placed[-1].low_memory in ("model", "group")
    assert "are free on the card" in str(loader.offload(BUILTIN))
    card.free = 23 * GB
    loader.free()
    loader.denoiser(BUILTIN)
    assert loader.placed[-1].low_memory == "none" and not loader.offload(BUILTIN)


def test_a_stopped_run_and_a_failed_one_take_an_offloaded_model_off_the_card(
    card: CardFigures, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[object] = []
    original = StableDiffusionImg2ImgPipeline.maybe_free_model_hooks
    monkeypatch.setattr(
        StableDiffusionImg2ImgPipeline,
        "maybe_free_model_hooks",
        lambda pipeline: (freed.append(pipeline), original(pipeline)),
    )
    studio, _ = studio_with()
    paint(studio, job(picture))
    assert len(freed) == 1, "diffusers does so at the end"
    stop = threading.Event()
    with pytest.raises(Cancelled):
        for event in studio.img2img(job(picture, num_inference_steps=50), stop):
            if isinstance(event, Step):
                stop.set()
    assert len(freed) == 2
    monkeypatch.setattr(UNet2DConditionModel, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        paint(studio, job(picture))
    assert len(freed) == 3


def test_the_second_card_is_the_current_one_while_it_computes(
    card: CardFigures, picture: Image.Image
) -> None:
    studio, loader = studio_with()
    loader._device = torch.device("cuda", 1)
    paint(studio, job(picture))
    assert card.used and set(card.used) == {1}


def test_what_overflowed_once_is_remembered(
    card: CardFigures, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converted copy is kept in place of the original, and the next run starts with it."""
    studio, loader = studio_with()
    vae = loader.vae(BUILTIN)
    vae.to(torch.float16)
    original = AutoencoderKL.decode

    def decode(module: Any, *args: Any, **kwargs: Any) -> Any:
        if module.dtype == torch.float16:
            raise NonFiniteError("The VAE overflowed.")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", decode)
    latents = torch.zeros(1, 4, 16, 16)
    _, first = studio.decode(latents, "builtin", VaeOptions("whole"))
    assert "float16 overflowed, so it ran again in bfloat16." in str(first.reason)
    assert loader.vae(BUILTIN).dtype == torch.bfloat16 and loader.vae(BUILTIN) is not vae
    _, second = studio.decode(latents, "builtin", VaeOptions("whole"))
    assert second.dtype == "bfloat16" and "overflowed" not in str(second.reason)
    loader.free()
    assert loader.vae(BUILTIN).dtype == torch.bfloat16, "also when it is loaded again"

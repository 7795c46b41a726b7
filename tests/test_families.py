"""SD v1, LCM, SDXL and Flux on tiny random models of diffusers' own classes, with the VAE elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from starlette.applications import Starlette

from backend import families, images
from backend.errors import BadSettingError, UnsupportedVAEError
from backend.events import Event, Result, StageDone, Step
from backend.job import Job, VaeOptions, vae_modes
from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL, ModelSpec
from backend.settings import Settings
from backend.studio import Studio
from tests.factories import FAMILIES, tiny_model
from tests.serving import serve

TILES = {"tile_size": 64, "tile_overlap": 16}


@dataclass
class Bench:
    """One Studio with all the tiny models, its VAE routes on a real port."""

    studio: Studio
    specs: dict[str, ModelSpec]

    def run(self, family: str, picture: Image.Image, **changes: Any) -> Result:
        *_, last = self.events(family, picture, **changes)
        assert isinstance(last, Result)
        return last

    def events(self, family: str, picture: Image.Image, **changes: Any) -> list[Event]:
        wish = Job(picture, "a lake", model=f"tiny-{family}", seed=5, width=128, height=96)
        whole = VaeOptions("whole")
        wish = replace(wish, strength=0.5, num_inference_steps=4, encode=whole, decode=whole)
        return list(self.studio.img2img(replace(wish, **changes)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    specs = {name: tiny_model(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}
    before = dict(MODELS)
    studio = Studio(Settings(device="cpu", local_models=tuple(specs.values())))
    with serve(Starlette(routes=studio.routes())) as url:
        studio.self_url = url
        yield Bench(studio, specs)
    MODELS.clear()
    MODELS.update(before)


@functools.cache
def full_pipeline(spec: ModelSpec) -> Any:
    """diffusers' pipeline as everybody loads it, VAE and all."""
    pipeline = getattr(diffusers, spec.pipeline).from_pretrained(spec.repository, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# Guidance on and off; for Flux, a negative prompt is what turns the second pass on.
WISHES: list[dict[str, Any]] = [
    {"guidance_scale": 5.0},
    {"guidance_scale": 0.0},
    {"guidance_scale": 3.0, "negative_prompt": "fog"},
]


@pytest.mark.parametrize("wish", WISHES, ids=["guided", "unguided", "negative"])
@pytest.mark.parametrize("family", FAMILIES)
def test_latents_and_picture_equal_those_of_the_full_pipeline(
    bench: Bench, picture: Image.Image, family: str, wish: dict[str, Any]
) -> None:
    """Bit for bit: the same weights, seed and encoded picture, but there with the VAE inside."""
    spec = bench.specs[family]
    pipeline = full_pipeline(spec)
    pixels = images.to_tensor(images.resize(picture, 128, 96))
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels).latent_dist.mode()
    encoded = (mean - (spec.latents.shift_factor or 0.0)) * spec.latents.scaling_factor
    arguments: dict[str, Any] = {"guidance_scale": wish["guidance_scale"]}
    if "negative_prompt" in wish:
        arguments["negative_prompt"] = wish["negative_prompt"]
    if family == "flux":
        arguments |= {"width": 128, "height": 96, "max_sequence_length": 256}
        if "negative_prompt" in wish:
            arguments["true_cfg_scale"] = wish["guidance_scale"]

    def plain(output_type: str) -> Any:
        return pipeline(
            "a lake",
            image=encoded,
            strength=0.5,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(5),
            output_type=output_type,
            **arguments,
        ).images

    result = bench.run(family, picture, **wish)
    expected = plain("latent")
    if family == "flux":
        expected = pipeline._unpack_latents(expected, 96, 128, 8)
    assert torch.equal(result.latents, expected)
    assert result.image.tobytes() == plain("pil")[0].tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_of_modes(bench: Bench, picture: Image.Image, family: str) -> None:
    """Remote goes over real HTTP to this app's own routes, which hold the same VAE."""
    modes = [mode for mode in vae_modes(bench.specs[family]) if mode != "auto"]
    assert "remote" in modes and "tiny" in modes
    whole = bench.run(family, picture, num_inference_steps=2)
    for encode in modes:
        for decode in modes:
            pair = {"encode": VaeOptions(encode, **TILES), "decode": VaeOptions(decode, **TILES)}
            result = bench.run(family, picture, num_inference_steps=2, **pair)
            assert (result.reports[0].mode, result.reports[2].mode) == (encode, decode)
            assert result.image.size == (128, 96)
            if encode in ("whole", "remote"):
                assert torch.equal(result.latents, whole.latents)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_both_ends_remote_no_vae_is_loaded(bench: Bench, picture: Image.Image, family: str) -> None:
    remote = VaeOptions("remote")
    far = Studio(replace(bench.studio.settings))
    far.self_url = bench.studio.self_url
    *_, last = far.img2img(
        Job(
            picture,
            "a lake",
            model=f"tiny-{family}",
            seed=5,
            width=128,
            height=96,
            encode=remote,
            decode=remote,
        )
    )
    assert isinstance(last, Result)
    assert [held.part for held in far.loader.loaded()] == ["denoiser"]
    stand_in = far.loader.denoiser(bench.specs[family]).vae
    assert not hasattr(stand_in, "parameters") and not hasattr(stand_in, "decode")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_s_round_trip(bench: Bench, picture: Image.Image, family: str) -> None:
    """Encode and decode alone; the scaling and the shift cancel."""
    latents, _ = bench.studio.encode(picture, f"tiny-{family}", VaeOptions("whole"))
    spec = bench.specs[family]
    assert latents.shape == (
        1,
        spec.latents.channels,
        *(side // 8 for side in reversed(picture_size(picture, spec))),
    )
    restored, _ = bench.studio.decode(latents, spec.name, VaeOptions("whole"))
    vae = full_pipeline(spec).vae
    pixels = images.to_tensor(images.resize(picture, *picture_size(picture, spec)))
    with torch.no_grad():
        plain = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    assert torch.allclose(images.to_tensor(restored), plain, atol=0.02)


def picture_size(picture: Image.Image, spec: ModelSpec) -> tuple[int, int]:
    multiple = spec.size_multiple
    return picture.width // multiple * multiple, picture.height // multiple * multiple


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [0.1, 0.3, 0.55, 0.9, 1.0])
def test_steps_are_counted_as_the_pipeline_counts(
    bench: Bench, picture: Image.Image, family: str, strength: float
) -> None:
    events = bench.events(family, picture, strength=strength, num_inference_steps=7)
    steps = [event for event in events if isinstance(event, Step)]
    done = [event.report.steps for event in events if isinstance(event, StageDone)]
    promised = families.steps_to_run(bench.specs[family], 7, strength)
    assert len(steps) == promised == done[1]
    assert all(step.steps == promised for step in steps)


def test_packing_is_diffusers_own() -> None:
    latents = torch.arange(2 * 16 * 6 * 4, dtype=torch.float32).view(2, 16, 6, 4)
    packed = diffusers.FluxImg2ImgPipeline._pack_latents(latents, 2, 16, 6, 4)
    assert torch.equal(families.unpack(packed, latents.shape, FLUX.latents), latents)
    assert families.unpack(latents, latents.shape, SDXL.latents) is latents


def test_previews_work_while_flux_is_packed(bench: Bench, picture: Image.Image) -> None:
    first = next(event for event in bench.events("flux", picture) if isinstance(event, Step))
    assert first.preview is not None and first.preview.width > first.preview.height


def test_a_scheduler_that_does_not_suit_the_model_is_refused(bench: Bench, picture: Image.Image) -> None:
    for family in ("flux", "sd-lcm"):
        with pytest.raises(BadSettingError, match="does not work with the scheduler Euler"):
            bench.events(family, picture, scheduler="Euler")
    assert bench.run("sdxl", picture, scheduler="DPM++ 2M").latents.isfinite().all()


def test_a_model_without_a_tiny_vae_says_so(studio: Studio, picture: Image.Image) -> None:
    assert "tiny" not in vae_modes(BUILTIN) and "tiny" in vae_modes(SD_V1)
    with pytest.raises(UnsupportedVAEError, match="no tiny VAE"):
        studio.encode(picture, "builtin", VaeOptions("tiny"))


def test_the_tiny_vae_s_latents_are_taken_as_they_come(bench: Bench, picture: Image.Image) -> None:
    from diffusers import AutoencoderTiny

    spec = bench.specs["flux"]
    assert spec.tiny_vae is not None
    vae = AutoencoderTiny.from_pretrained(Path(spec.tiny_vae)).eval()
    latents, report = bench.studio.encode(picture, spec.name, VaeOptions("tiny"))
    with torch.no_grad():
        plain = vae.encode(images.to_tensor(picture)).latents
    assert torch.equal(latents, plain) and report.mode == "tiny"


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_every_model_s_pipeline_exists_and_its_schedulers_are_known(spec: ModelSpec) -> None:
    from backend.job import SCHEDULERS

    assert hasattr(diffusers, spec.pipeline) and spec.available
    assert set(spec.schedulers) <= {"default", *SCHEDULERS}

"""Dtypes: the right one for a model and device, and a retry in a wider one after an overflow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from backend.device import precision
from backend.errors import NonFiniteError
from backend.events import Result
from backend.job import Job, VaeOptions
from backend.models import BUILTIN, FLUX, SD_V1
from backend.report import StageReport
from backend.request import StageRequest, decode_request, encode_request
from backend.run.stage import run_stage
from backend.settings import Settings
from backend.studio import Studio
from backend.vae.base import require_finite
from backend.vae.whole import Whole
from tests.card_figures import CardFigures
from tests.factories import tiny_vae

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
WHOLE = VaeOptions("whole")


def test_a_card_takes_models_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    CardFigures().pretend(monkeypatch)
    assert precision.pick_dtype(SD_V1.dtype, CUDA)[0] == torch.float16
    assert precision.pick_dtype(FLUX.dtype, CUDA)[0] == torch.bfloat16
    assert precision.pick_dtype(BUILTIN.dtype, CUDA)[0] == torch.float32


@pytest.mark.parametrize("pays", [True, False])
def test_a_processor_computes_half_precision_models_in_what_is_faster_there(
    monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: pays)
    dtype, reason = precision.pick_dtype(SD_V1.dtype, CPU)
    assert dtype == (torch.bfloat16 if pays else torch.float32) and str(reason).endswith(".")
    assert precision.pick_dtype(BUILTIN.dtype, CPU)[0] == torch.float32, "whatever the processor"


def test_without_the_instructions_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: False)
    monkeypatch.setattr(precision, "_seconds", lambda work: pytest.fail("measured"))
    assert precision.bfloat16_pays.__wrapped__() is False


def test_the_measurement_takes_the_median_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    for ratio, pays in ((0.5, True), (0.95, False)):
        times = iter([ratio, 1.0] * 5 + [9.0, 1.0] * 2)  # two of seven pairs were disturbed
        monkeypatch.setattr(precision, "_has_bfloat16", lambda: True)
        monkeypatch.setattr(precision, "_seconds", lambda work, times=times: next(times))
        assert precision.bfloat16_pays.__wrapped__() is pays


def test_the_next_wider_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    CardFigures().pretend(monkeypatch)
    assert precision.next_wider_dtype(torch.float16, CUDA) == torch.bfloat16
    assert precision.next_wider_dtype(torch.float16, MPS) == torch.float32
    assert precision.next_wider_dtype(torch.bfloat16, CPU) == torch.float32
    assert precision.next_wider_dtype(torch.float32, CPU) is None


def run(request: StageRequest, module: Any) -> tuple[torch.Tensor, StageReport]:
    """Run it on a loader that already holds `module` as the built-in model's VAE."""
    studio = Studio(Settings(device="cpu"))
    studio.loader._parts[(BUILTIN.name, "VAE")] = module
    return run_stage(request, studio.context)


def overflowing_vae() -> Any:
    """A VAE whose first layers leave float16's range and no other's; a normalisation brings it back in."""
    torch.manual_seed(0)
    vae = tiny_vae(scaling_factor=BUILTIN.latents.scaling_factor)
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(2e5)
        vae.decoder.conv_in.weight.mul_(2e5)
    return vae


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_an_overflow_is_retried_in_a_wider_dtype_and_reported(stage: Any) -> None:
    vae = overflowing_vae()
    tensor = torch.rand(1, 3, 32, 32) * 2 - 1 if stage == "encode" else torch.randn(1, 4, 4, 4)
    request = (encode_request if stage == "encode" else decode_request)(BUILTIN, tensor, WHOLE)
    expected, _ = run(request, vae)
    half = overflowing_vae().half()
    weights = {name: value.clone() for name, value in half.state_dict().items()}
    output, report = run(request, half)
    assert report.dtype == "bfloat16"
    assert str(report.reason) == "You chose it. float16 overflowed, so it ran again in bfloat16."
    assert torch.nn.functional.cosine_similarity(output.float().flatten(), expected.flatten(), 0) > 0.95
    assert all(torch.equal(value, weights[name]) for name, value in half.state_dict().items()), (
        "left as it was"
    )


def test_a_single_bad_value_is_retried_up_to_float32_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[torch.dtype] = []

    def decode(self: Whole, z: torch.Tensor) -> torch.Tensor:
        formats.append(z.dtype)
        image = torch.zeros(1, 3, 16, 16, dtype=z.dtype)
        if z.dtype != torch.float32 or hopeless:
            image[0, 2, 5, 7] = torch.nan
        return image

    monkeypatch.setattr(Whole, "_decode", decode)
    expected = [torch.float16, torch.bfloat16, torch.float32]
    request = decode_request(BUILTIN, torch.zeros(1, 4, 2, 2), WHOLE)
    hopeless = False
    _, report = run(request, tiny_vae().half())
    assert report.dtype == "float32" and formats == expected
    assert "float16 overflowed" in str(report.reason) and "bfloat16 overflowed" in str(report.reason)
    hopeless = True
    with pytest.raises(NonFiniteError):
        run(request, tiny_vae().half())


def test_beyond_float32_no_wider_format_is_advised() -> None:
    huge = torch.full((1, 4, 2, 2), float("inf"))
    for dtype, advised in ((torch.float16, True), (torch.bfloat16, True), (torch.float32, False)):
        with pytest.raises(NonFiniteError) as caught:
            require_finite(huge.to(dtype), "whole", "decode")
        assert ("wider" in str(caught.value.full_message)) == advised


def test_a_denoiser_that_overflows_starts_again_wider(picture: Image.Image) -> None:
    """A denoiser that gives infinity in float16 runs again in bfloat16, and the report says so."""
    studio = Studio(Settings(device="cpu"))
    pipeline = studio.loader.denoiser(BUILTIN, torch.float16)
    hook = pipeline.unet.register_forward_hook(
        lambda module, inputs, output: tuple(value.new_full(value.shape, torch.inf) for value in output)
    )
    requested = Job(picture, "a lake", strength=0.5, num_inference_steps=4, seed=1, width=64, height=64)
    *_, last = studio.img2img(replace(requested, encode=WHOLE, decode=WHOLE))
    hook.remove()
    assert isinstance(last, Result) and last.latents.isfinite().all()
    denoised = last.reports[1]
    assert denoised.dtype == "bfloat16" and "float16 overflowed, so it ran again in bfloat16" in str(
        denoised.reason
    )


def test_the_built_in_model_stays_in_float32(studio: Studio, picture: Image.Image) -> None:
    _, report = studio.encode(picture, "builtin", WHOLE)
    assert report.dtype == "float32"

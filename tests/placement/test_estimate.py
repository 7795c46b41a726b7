from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from backend.errors import BadSettingError
from backend.job import Job, VaeOptions
from backend.models import SD_V1
from backend.request import StageRequest
from backend.settings import EndpointPair, Settings
from backend.studio import Studio

JOB = Job(
    Image.new("RGB", (96, 64)), "a lake", strength=0.5, num_inference_steps=6, width=96, height=64, seed=1
)


def test_the_first_estimate_knows_the_memory_and_after_a_run_the_time_too() -> None:
    studio = Studio(Settings(device="cpu"))
    before = studio.estimate(JOB)
    assert before.seconds is None and before.peak_bytes and before.fits
    assert (before.encode_mode, before.decode_mode) == ("whole", "whole")
    list(studio.img2img(JOB))
    after = studio.estimate(JOB)
    denoising = studio.planner.expect_denoise(studio.resolve(JOB))
    assert denoising.peak_bytes and after.peak_bytes and after.peak_bytes >= denoising.peak_bytes
    assert after.seconds is not None and after.seconds > 0
    more = studio.estimate(replace(JOB, strength=1.0))
    assert more.seconds is not None and more.seconds > after.seconds, "twice the steps"


def test_what_goes_elsewhere_needs_no_memory_here() -> None:
    remote = VaeOptions("remote")
    estimate = Studio(Settings(device="cpu")).estimate(replace(JOB, encode=remote, decode=remote))
    assert estimate.peak_bytes == 0 and estimate.seconds is None


def test_a_picture_that_cannot_fit_is_known_before() -> None:
    huge = replace(JOB, model="sd-v1", width=4096, height=4096, decode=VaeOptions("whole"))
    studio = Studio(Settings(device="cpu"))
    estimate, values = studio.estimate(huge), 10e9  # that whole holds at once; bfloat16 where that is fast
    assert estimate.peak_bytes is not None
    assert estimate.peak_bytes > values * studio.loader.dtype(SD_V1, "VAE").itemsize
    assert estimate.fits is (estimate.peak_bytes <= estimate.free_bytes)


def test_nonsense_is_refused_as_the_job_itself_would_be() -> None:
    with pytest.raises(BadSettingError):
        Studio(Settings(device="cpu")).estimate(replace(JOB, strength=3.0))


def test_auto_streams_large_pictures_where_that_was_measured_faster() -> None:
    planner = Studio(Settings(device="cpu")).planner

    def request(side: int) -> StageRequest:
        return StageRequest("decode", SD_V1, side, side, VaeOptions("auto"))

    def first(side: int) -> str:
        return planner.candidates(request(side))[0].mode

    assert first(256) == "whole"
    assert first(1024) == "streamed", "as the benchmark found on processors"
    for mode, seconds in (
        ("whole", 1.0),
        ("streamed", 2.0),
    ) * 3:  # the first warms up, and one is not yet a measurement
        planner.costs.learn(request(1024), mode, planner.device_state(SD_V1), seconds, None)
    assert first(1024) == "whole", "as this machine found"


@pytest.mark.parametrize("settings", [Settings(device="cpu"), Settings(device="cpu", on_space=True)])
def test_auto_sends_a_picture_only_to_an_endpoint_that_the_owner_configured(settings: Settings) -> None:
    def modes(settings: Settings) -> set[str]:
        request = StageRequest("decode", SD_V1, 4096, 4096, VaeOptions("auto"))
        return {candidate.mode for candidate in Studio(settings).planner.candidates(request)}

    assert "remote" not in modes(settings)
    configured = {"sd-v1": EndpointPair(decode="https://vae.example/decode")}
    assert "remote" in modes(replace(settings, endpoints=configured))

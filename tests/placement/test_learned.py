from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from backend.device.convolution import convolution_probe
from backend.device.measure import DeviceState
from backend.job import Job, ResolvedJob, VaeOptions
from backend.models import BUILTIN, SD_V1, SDXL
from backend.placement.learned import ExpectedCost, LearnedCosts, peak_bytes
from backend.placement.shapes import cpu_peak_bytes
from backend.request import StageRequest
from backend.settings import Settings
from backend.studio import Studio

REQUEST = StageRequest("decode", SD_V1, 512, 512, VaeOptions())
CPU = DeviceState("cpu", "a processor", "float32", 8 * 2**30)
CARD = DeviceState("cuda", "a card", "float16", 8 * 2**30)
PLAN = (REQUEST, "whole", CPU)


def test_nothing_is_known_at_first_but_the_peak() -> None:
    expected = LearnedCosts().expect(*PLAN)
    assert expected.seconds is None
    probe = convolution_probe("float32")
    assert expected.peak_bytes == cpu_peak_bytes(SD_V1.vae_block_out_channels, "decode", 512, 512, 4, probe)


def test_seconds_follow_what_ran_here() -> None:
    known = LearnedCosts()
    known.learn(*PLAN, 10.0, None)
    assert known.expect(*PLAN).seconds == pytest.approx(10.0)
    twice = known.expect(replace(REQUEST, width=1024), "whole", CPU).seconds
    assert twice is not None and 20.0 < twice < 25.0, "and a little for the attention"
    known.learn(*PLAN, 5.0, None)
    assert known.expect(*PLAN).seconds == pytest.approx(5.0), "the first run had to warm up"
    known.learn(*PLAN, 10.0, None)
    later = known.expect(*PLAN).seconds
    assert later is not None and 5 < later < 10, "no later run decides alone"


def test_a_first_run_in_another_process_is_not_taken_for_a_slower_machine(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for _ in range(2):
        LearnedCosts(path).learn(*PLAN, 5.0, None)
    again = LearnedCosts(path)
    again.learn(*PLAN, 9.0, None)
    assert again.expect(*PLAN).seconds == pytest.approx(5.0)
    again.learn(*PLAN, 9.0, None)
    later = again.expect(*PLAN).seconds
    assert later is not None and later > 5


def test_what_never_ran_is_guessed_from_the_same_arithmetic() -> None:
    known = LearnedCosts()
    known.learn(*PLAN, 10.0, None)
    tiled = known.expect(replace(REQUEST, width=1024, height=1024), "tiled", CPU).seconds
    assert tiled == pytest.approx(10.0 * (512 + 512 + 256) ** 2 / 512**2, rel=0.05)
    other = known.expect(replace(REQUEST, spec=BUILTIN), "whole", CPU).seconds
    assert other is not None and other < 1.0, "a smaller network"
    for unknown in (
        (replace(REQUEST, direction="encode"), "whole", CPU),
        (REQUEST, "whole", replace(CPU, dtype="float16")),
        (REQUEST, "whole", replace(CPU, name="a card")),
        (REQUEST, "tiny", CPU),
    ):
        assert known.expect(*unknown).seconds is None


@pytest.mark.parametrize("plan", [PLAN, (REQUEST, "whole", CARD)])
def test_the_peaks_are_learned_too(plan: tuple[StageRequest, str, DeviceState]) -> None:
    known = LearnedCosts()
    forecast = known.expect(*plan).peak_bytes
    assert forecast
    for _ in range(2):  # on a card a first run teaches nothing
        known.learn(*plan, 0.1, forecast * 2)
    assert known.expect(*plan).peak_bytes == forecast * 2
    larger = replace(REQUEST, width=1024)
    expected = peak_bytes(larger, *plan[1:])
    assert expected and known.expect(larger, *plan[1:]).peak_bytes == 2 * expected


def test_a_denoising_is_learned_from_its_steps() -> None:
    """What comes beside them, such as the text encoder's work, does not grow with them."""
    known = LearnedCosts()
    job = Job(Image.new("RGB", (64, 64)), "", strength=1.0, num_inference_steps=10, width=64, height=64)
    few = job.resolve(BUILTIN)
    many = replace(job, num_inference_steps=30).resolve(BUILTIN)
    assert known.expect_denoise(few, CPU) == ExpectedCost(None, None)
    known.learn_denoise(few, CPU, 9.0, 0.2, 5000)
    assert known.expect_denoise(few, CPU).seconds == pytest.approx(2.0), "the rest was warming up"
    known.learn_denoise(few, CPU, 2.5, 0.2, 5000)
    assert known.expect_denoise(few, CPU).seconds == pytest.approx(2.5)
    assert known.expect_denoise(many, CPU).seconds == pytest.approx(6.5)
    wide = replace(job, width=128).resolve(BUILTIN)
    assert known.expect_denoise(wide, CPU).peak_bytes == 10_000


def denoising(side: int) -> ResolvedJob:
    job = Job(Image.new("RGB", (64, 64)), "", strength=1.0, num_inference_steps=10, width=side, height=side)
    return job.resolve(BUILTIN)


@pytest.mark.parametrize("power", [0.6, 1.0, 1.7])
def test_two_sizes_tell_how_a_denoising_grows(tmp_path: Path, power: float) -> None:
    """With its attention by more than the pixels, where a step costs much at any size by less; also in the next
    process."""

    def step(side: int) -> float:
        return (side / 100) ** (2 * power)

    path = tmp_path / "calibration.json"
    known = LearnedCosts(path)
    for side in (128, 128, 256):  # the first one warms up
        known.learn_denoise(denoising(side), CPU, 10 * step(side), step(side))
    for process in (known, LearnedCosts(path)):
        for side in (64, 128, 192, 256, 512):
            assert process.expect_denoise(denoising(side), CPU).seconds == pytest.approx(10 * step(side))


@pytest.mark.parametrize(("large", "power"), [(0.2, 0.5), (40.0, 2.0)])
def test_a_disturbed_run_makes_no_denoising_free_nor_dearer_than_attention_can(
    large: float, power: float
) -> None:
    known = LearnedCosts()
    for side, second in ((128, 1.0), (128, 1.0), (256, 4 * large)):
        known.learn_denoise(denoising(side), CPU, 10 * second, second)
    assert known.expect_denoise(denoising(256), CPU).seconds == pytest.approx(40 * large)
    assert known.expect_denoise(denoising(512), CPU).seconds == pytest.approx(40 * large * 4**power)


def test_two_sizes_that_are_nearly_the_same_tell_nothing() -> None:
    known = LearnedCosts()
    for side, second in ((128, 1.0), (128, 1.0), (136, 1.0)):
        known.learn_denoise(denoising(side), CPU, 10 * second, second)
    assert known.expect_denoise(denoising(272), CPU).seconds == pytest.approx(40.0)


def test_the_times_of_few_sizes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    known = LearnedCosts(path)
    for side in range(64, 64 + 8 * 40, 8):
        known.learn_denoise(denoising(side), CPU, 10.0, 1.0)
    (kind,) = json.loads(path.read_text())["kinds"].values()
    assert len(kind["seconds_by_size"]) == 16 and str(376**2) in kind["seconds_by_size"]


def test_the_first_run_of_a_size_on_a_card_teaches_nothing(tmp_path: Path) -> None:
    """It takes seconds to load libraries and to try algorithms out: once learned, it kept "whole" from running."""
    card = DeviceState("cuda", "a card", "float16", 8 * 2**30)
    larger = replace(REQUEST, width=1024)
    for known in (LearnedCosts(tmp_path / "calibration.json"), LearnedCosts(tmp_path / "calibration.json")):
        known.learn(REQUEST, "whole", card, 2.6, None)
        assert known.expect(REQUEST, "whole", card).seconds in (None, pytest.approx(0.2)), (
            "in each process anew"
        )
        known.learn(REQUEST, "whole", card, 0.2, None)
        known.learn(larger, "whole", card, 3.0, None)
        assert known.expect(REQUEST, "whole", card).seconds == pytest.approx(0.2)
    known.learn(larger, "whole", card, 0.4, None)  # twice the pixels, and a little more of attention
    assert known.expect(REQUEST, "whole", card).seconds == pytest.approx(0.2, rel=0.05)


def test_one_run_is_not_yet_a_measurement_to_compare_by(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    known = LearnedCosts(path)
    for _ in range(2):  # and the first is no measurement at all
        known.learn(*PLAN, 10.0, None)
        assert known.expect(*PLAN).measured_seconds is None
    known.learn(*PLAN, 10.0, None)
    assert known.expect(*PLAN).measured_seconds == pytest.approx(10.0)
    assert LearnedCosts(path).expect(*PLAN).measured_seconds == pytest.approx(10.0), "also after a restart"


def test_it_counts_for_how_long_a_mode_has_not_run() -> None:
    known = LearnedCosts()
    known.learn(*PLAN, 1.0, None)
    for _ in range(3):
        known.learn(REQUEST, "streamed", CPU, 1.0, None)
    known.learn(replace(REQUEST, direction="encode"), "streamed", CPU, 1.0, None)
    assert known.expect(*PLAN).runs_since == 3 and known.expect(REQUEST, "streamed", CPU).runs_since == 0
    known.learn(*PLAN, 1.0, None)
    assert known.expect(*PLAN).runs_since == 0 and known.expect(REQUEST, "streamed", CPU).runs_since == 1


def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "calibration.json"
    LearnedCosts(path).learn(*PLAN, 10.0, None)
    assert LearnedCosts(path).expect(*PLAN).seconds == pytest.approx(10.0)
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 99}',
        '{"format": 1, "rates": {"a": 1.0}, "peaks": {}}',
        '{"format": 3, "kinds": 3}',
        '{"format": 3, "kinds": {"a": {"rate": 0, "runs": 1}}}',
        '{"format": 3, "kinds": {"a": {"rate": NaN, "runs": 1}}}',
        '{"format": 3, "kinds": {"a": {"rate": 1}}}',
        '{"format": 3, "kinds": {"a": {"rate": 1, "runs": 1, "seconds_by_size": {"4096": 0}}}}',
        '{"format": 3, "kinds": {"a": {"rate": 1, "runs": 1, "seconds_by_size": [1]}}}',
    ],
)
def test_a_damaged_file_is_forgotten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    known = LearnedCosts(path)
    assert known.expect(*PLAN).seconds is None
    known.learn(*PLAN, 1.0, None)
    assert LearnedCosts(path).expect(*PLAN).seconds == pytest.approx(1.0)


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    known = LearnedCosts(tmp_path / "file" / "calibration.json")
    known.learn(*PLAN, 1.0, None)
    assert known.expect(*PLAN).seconds == pytest.approx(1.0)


def test_the_streamed_mode_brings_its_own_plan() -> None:
    large = replace(REQUEST, spec=SDXL, width=2048, height=2048)
    whole = peak_bytes(large, "whole", CPU)
    streamed = peak_bytes(large, "streamed", CPU)
    assert whole is not None and streamed is not None and 0 < streamed < whole / 2


def test_the_studio_learns_from_its_stages(tmp_path: Path, picture: Image.Image) -> None:
    studio = Studio(Settings(device="cpu", cache_folder=tmp_path))
    options = VaeOptions("whole")
    before = studio.forecast("builtin", "encode", 96, 64, options)
    assert set(before) == {"whole", "streamed", "tiled"}
    assert all(expected.peak_bytes and expected.seconds is None for expected in before.values())
    studio.encode(picture, "builtin", options)
    after = studio.forecast("builtin", "encode", 96, 64, options)
    assert after["whole"].seconds is not None and after["tiled"].seconds is not None
    again = Studio(Settings(device="cpu", cache_folder=tmp_path))
    assert again.forecast("builtin", "encode", 96, 64, options) == after
    assert torch.device("cpu") == again.loader.device

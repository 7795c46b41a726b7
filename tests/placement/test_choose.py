from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.device.measure import DeviceState
from backend.job import VaeOptions
from backend.models import SD_V1 as SD
from backend.placement.choose import Candidate, choose
from backend.placement.learned import ExpectedCost
from backend.placement.shapes import elements_per_pixel, vae_peak_bytes
from backend.request import StageRequest

SD_V1 = (128, 256, 512, 512)


def candidates(
    free: float,
    has_endpoint: bool = True,
    streamed: float | None = 1e9,
    *,
    device: str = "cuda",
    seconds: dict[str, float] | None = None,
    side: int = 2048,
    since: dict[str, int] | None = None,
) -> list[Candidate]:
    """For a stage of 6.4 GB whole, 1 GB streamed and 0.4 GB in tiles of 512; `seconds` by mode, as measured."""
    needs = {"whole": int(6.44e9), "streamed": streamed and int(streamed), "tiled": int(0.403e9)}

    def expect(mode: str) -> ExpectedCost:
        known = (seconds or {}).get(mode)
        return ExpectedCost(needs[mode], known, known, runs_since=(since or {}).get(mode, 0))

    request = StageRequest("decode", SD, side, side, VaeOptions("auto"))
    return choose(request, DeviceState(device, "a device", "float16", int(free)), expect, has_endpoint)


@pytest.mark.parametrize(
    ("free", "has_remote", "modes"),
    [
        (24e9, True, ["whole", "streamed", "tiled", "remote"]),
        (24e9, False, ["whole", "streamed", "tiled"]),
        (4e9, True, ["streamed", "tiled", "remote"]),
        (4e9, False, ["streamed", "tiled"]),
        (0.8e9, True, ["tiled", "remote"]),
        (0.1e9, True, ["remote", "tiled"]),
        (0.1e9, False, ["tiled"]),
    ],
)
def test_the_first_that_fits_then_the_others(free: float, has_remote: bool, modes: list[str]) -> None:
    found = candidates(free, has_remote)
    assert [one.mode for one in found] == modes
    assert all(str(one.reason).endswith(".") for one in found)


def test_the_faster_of_the_exact_modes_comes_first_where_both_fit() -> None:
    faster = {"whole": 2.0, "streamed": 1.0}
    fast = candidates(24e9, False, seconds=faster)
    assert [one.mode for one in fast] == ["streamed", "whole", "tiled"] and "faster" in str(fast[0].reason)
    assert [one.mode for one in candidates(4e9, False, seconds=faster)] == ["streamed", "tiled"]
    assert candidates(24e9, seconds={"whole": 1.0, "streamed": 2.0}, device="cpu")[0].mode == "whole"
    assert candidates(24e9, seconds=faster, side=256)[0].mode == "whole", "small pictures stay whole"
    assert candidates(24e9, device="cpu")[0].mode == "streamed", "as the benchmark found on processors"
    assert candidates(24e9, seconds={"whole": 1.0}, device="cpu")[0].mode == "streamed", (
        "one is not known yet"
    )


def test_the_slower_of_the_exact_modes_is_timed_again_now_and_then() -> None:
    for slower, times in (
        ("whole", {"whole": 2.0, "streamed": 1.0}),
        ("streamed", {"whole": 1.0, "streamed": 2.0}),
    ):
        early = candidates(24e9, seconds=times, since={slower: 19})
        assert early[0].mode != slower
        late = candidates(24e9, seconds=times, since={slower: 20})
        assert late[0].mode == slower and "timed again" in str(late[0].reason)
        assert sorted(one.mode for one in late) == sorted(one.mode for one in early)


def test_what_is_asked_for_by_name_is_the_only_candidate() -> None:
    request = StageRequest("decode", SD, 512, 512, VaeOptions("tiled"))
    (only,) = choose(request, DeviceState("cpu", "a device", "float32", 0), _never, has_endpoint=True)
    assert only.mode == "tiled" and str(only.reason) == "You chose it."


def _never(mode: str) -> ExpectedCost:
    raise AssertionError(mode)


def test_a_vae_that_cannot_be_streamed_goes_on_to_tiles() -> None:
    assert [one.mode for one in candidates(4e9, streamed=None)] == ["tiled", "remote"]


def test_the_reason_names_what_is_needed_and_what_is_there() -> None:
    assert "6.4 GB" in str(candidates(24e9)[0].reason) and "24 GB" in str(candidates(24e9)[0].reason)
    assert "1 GB" in str(candidates(4e9)[0].reason) and "6.4 GB" in str(candidates(4e9)[0].reason)
    assert "400 MB" in str(candidates(0.8e9)[0].reason)


def test_the_forecast_counts_what_was_measured_from_shapes() -> None:
    assert elements_per_pixel(SD_V1, "decode") == 768 and elements_per_pixel(SD_V1, "encode") == 512
    assert vae_peak_bytes(SD_V1, "decode", 1024, 1024, 2) == pytest.approx(1.5 * 2**30)


@given(st.integers(64, 4096), st.integers(64, 4096), st.integers(64, 1024))
def test_a_tile_never_needs_more_than_the_whole(width: int, height: int, tile: int) -> None:
    whole = vae_peak_bytes(SD_V1, "encode", width, height, 2)
    assert vae_peak_bytes(SD_V1, "encode", width, height, 2, tile) <= whole

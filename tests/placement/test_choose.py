from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.placement.choose import Choice, ladder
from backend.placement.shapes import elements_per_pixel, vae_peak_bytes

SD_V1 = (128, 256, 512, 512)


def choose(free: float, has_remote: bool = True, streamed: float | None = 1e9) -> list[Choice]:
    """The ladder for a stage of 6.4 GB whole, 1 GB streamed and 0.4 GB in tiles of 512."""
    return ladder(
        whole=int(6.44e9),
        streamed=None if streamed is None else int(streamed),
        tiled=int(0.403e9),
        free=int(free),
        tile_size=512,
        has_remote=has_remote,
    )


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
    choices = choose(free, has_remote)
    assert [choice.mode for choice in choices] == modes
    assert all(choice.reason.endswith(".") for choice in choices)


def test_the_faster_of_the_exact_modes_comes_first_where_both_fit() -> None:
    sizes = {
        "whole": int(6e9),
        "streamed": int(1e9),
        "tiled": int(4e8),
        "tile_size": 512,
        "has_remote": False,
    }
    fast = ladder(**sizes, free=int(24e9), streamed_is_faster=True)  # type: ignore[arg-type]
    assert [choice.mode for choice in fast] == ["streamed", "whole", "tiled"] and "faster" in fast[0].reason
    tight = ladder(**sizes, free=int(4e9), streamed_is_faster=True)  # type: ignore[arg-type]
    assert [choice.mode for choice in tight] == ["streamed", "tiled"]


def test_a_vae_that_cannot_be_streamed_goes_on_to_tiles() -> None:
    assert [choice.mode for choice in choose(4e9, streamed=None)] == ["tiled", "remote"]


def test_the_reason_names_what_is_needed_and_what_is_there() -> None:
    assert "6.4 GB" in choose(24e9)[0].reason and "24.0 GB" in choose(24e9)[0].reason
    assert "1.0 GB" in choose(4e9)[0].reason and "6.4 GB" in choose(4e9)[0].reason
    assert "0.4 GB" in choose(0.8e9)[0].reason


def test_the_forecast_counts_what_was_measured_from_shapes() -> None:
    assert elements_per_pixel(SD_V1, "decode") == 768 and elements_per_pixel(SD_V1, "encode") == 512
    assert vae_peak_bytes(SD_V1, "decode", 1024, 1024, 2) == pytest.approx(1.5 * 2**30)


@given(st.integers(64, 4096), st.integers(64, 4096), st.integers(64, 1024))
def test_a_tile_never_needs_more_than_the_whole(width: int, height: int, tile: int) -> None:
    whole = vae_peak_bytes(SD_V1, "encode", width, height, 2)
    assert vae_peak_bytes(SD_V1, "encode", width, height, 2, tile) <= whole

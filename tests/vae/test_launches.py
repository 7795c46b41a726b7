"""How many launches and waits a card would see: counted with fake tensors of the full size (`benchmarks.launches`)."""

from __future__ import annotations

import pytest

from backend.models import FLUX, SD_V1
from backend.report import Direction
from benchmarks.launches import count


@pytest.mark.parametrize(
    ("direction", "size", "most"),
    [("decode", 1024, 700), ("encode", 1024, 450), ("decode", 512, 350)],
)
def test_streamed_stays_bound_by_arithmetic(direction: Direction, size: int, most: int) -> None:
    card = count(SD_V1, direction, size, "streamed")
    assert card.launches <= most, card.kernels
    assert sum(card.syncs.values()) <= 2, card.syncs


def test_streamed_rearranges_little() -> None:
    """Maps stay NHWC, which tensor cores work on; untiled rearranges every map that goes through a convolution."""
    streamed, whole = (count(SD_V1, "decode", 1024, mode).layout_bytes for mode in ("streamed", "whole"))
    assert streamed < whole / 20


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_a_seam_is_a_handful_of_launches(direction: Direction) -> None:
    """1024 pixels in tiles of 512 that overlap by 128: three by three."""
    tiled, whole = (count(FLUX, direction, 1024, mode) for mode in ("tiled", "whole"))
    assert tiled.launches <= 9 * whole.launches + 100
    assert sum(tiled.syncs.values()) <= 1

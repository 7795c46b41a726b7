from __future__ import annotations

import math
import threading

import pytest
from PIL import Image

from backend.compare import Row, at_working_size, compare, conclusion
from backend.errors import Cancelled
from backend.job import VaeOptions
from backend.message import Message, literal
from backend.report import Cost, Direction, StageReport, Traffic
from backend.studio import Studio

ENDS: tuple[Direction, ...] = ("encode", "decode")
TILES = VaeOptions(tile_size=64, tile_overlap=16)


def test_a_picture_makes_the_round_trip_in_every_mode(studio: Studio, picture: Image.Image) -> None:
    rows = {
        row.mode: row
        for row in compare(studio, picture.resize((192, 128)), "builtin", ["tiled", "remote"], TILES)
    }
    assert list(rows) == ["whole", "tiled", "remote"], "the reference comes first, asked for or not"
    assert rows["whole"].psnr == math.inf and rows["whole"].colour_difference == 0
    assert rows["remote"].psnr is not None and rows["remote"].psnr > 50 and rows["remote"].wire_bytes
    tiled = rows["tiled"]
    assert tiled.psnr is not None and 15 < tiled.psnr < 50
    assert tiled.seam_score is not None and tiled.seam_score > 0
    assert all(row.seconds and len(row.reports) == 2 and row.error is None for row in rows.values())
    assert rows["tiled"].wire_bytes is None


def test_latents_are_only_decoded(studio: Studio, picture: Image.Image) -> None:
    latents, _ = studio.encode(picture, "builtin", VaeOptions("whole"))
    rows = list(compare(studio, latents, "builtin", ["tiled"], TILES))
    assert [len(row.reports) for row in rows] == [1, 1]


def test_a_mode_that_fails_is_a_row_with_its_reason(studio: Studio, picture: Image.Image) -> None:
    bad = VaeOptions(tile_size=64, tile_overlap=10)  # not whole latents
    whole, tiled, remote = compare(studio, picture, "builtin", ["tiled", "remote"], bad)
    assert (
        tiled.image is None
        and tiled.error is not None
        and "overlap" in str(tiled.error)
        and tiled.psnr is None
    )
    assert tiled.as_dict()["error"] == str(tiled.error)
    assert whole.error is None and remote.error is None
    assert tiled.as_dict()["seconds"] is None


def test_it_works_at_the_picture_s_own_size(studio: Studio) -> None:
    photo = Image.effect_noise((320, 200), 60).convert("RGB")
    sized, sentence = at_working_size(studio, photo, "builtin")
    assert sized is photo and str(sentence) == "Compared at 320 × 200 pixels, the picture’s own size."
    odd = photo.crop((0, 0, 319, 199))
    sized, sentence = at_working_size(studio, odd, "builtin")
    assert sized.tobytes() == odd.crop((1, 1, 317, 197)).tobytes(), "cut, not resampled"
    assert str(sentence) == "Compared at 316 × 196 pixels, cut from 319 × 199 to whole latents."
    assert at_working_size(studio, photo, "builtin", 1024)[0] is photo, "never enlarged"
    assert at_working_size(studio, photo.resize((20, 20)), "builtin")[0].size == (64, 64)


def test_it_works_smaller_where_asked_or_where_the_whole_picture_would_not_fit(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.new("RGB", (1024, 512))
    sized, sentence = at_working_size(studio, photo, "builtin", 256)
    assert sized.size == (256, 128)
    assert str(sentence) == "Compared at 256 × 128 pixels; the picture has 1024 × 512."
    monkeypatch.setattr("backend.placement.planner.free_bytes", lambda device: 100_000_000)
    sized, sentence = at_working_size(studio, photo, "builtin")
    assert 256 < sized.width < 1024 and sized.width == pytest.approx(2 * sized.height, abs=8)
    assert "the most that fits the free memory; the picture has 1024 × 512." in str(sentence)
    needs = [studio.forecast("builtin", d, *sized.size, VaeOptions())["whole"].peak_bytes for d in ENDS]
    assert 60_000_000 < max(need or 0 for need in needs) < 85_000_000
    monkeypatch.setattr("backend.placement.planner.free_bytes", lambda device: 0)
    assert at_working_size(studio, photo, "builtin")[0].size == (64, 64)


def test_memory_is_what_was_taken_above_the_start() -> None:
    """Also on a card, whose peak includes the weights and whatever else lies there."""

    def taken(mode: str, peak: int) -> Row:
        cost = Cost(1.0, "VRAM", peak, 8000, 10**10)
        report = StageReport("decode", mode, Message(""), Message(""), cost)
        return Row(mode, Image.new("RGB", (8, 8)), (report,), psnr=60)

    whole, streamed = taken("whole", 9000), taken("streamed", 8300)
    assert (whole.added_bytes, streamed.added_bytes) == (1000, 300)
    assert "in 30 % of the memory" in str(conclusion([whole, streamed]))


def test_stopping(studio: Studio, picture: Image.Image) -> None:
    stop = threading.Event()
    rows = compare(studio, picture, "builtin", ["tiled"], TILES, stop)
    next(rows)
    stop.set()
    with pytest.raises(Cancelled):
        next(rows)


def planted(mode: str, psnr: float, peak: int, seconds: float, wire: int = 0) -> Row:
    cost = Cost(seconds, "VRAM", peak, 0, 10**10)
    report = StageReport("decode", mode, Message(""), Message(""), cost, Traffic(wire, 0) if wire else None)
    return Row(mode, Image.new("RGB", (8, 8)), (report,), psnr=psnr)


def test_the_conclusion_is_one_plain_sentence() -> None:
    whole = planted("whole", math.inf, 1000, 2.0)
    streamed, tiled = planted("streamed", 60, 310, 1.4), planted("tiled", 28, 200, 3.0)
    assert (
        str(conclusion([whole, tiled, streamed]))
        == "Streamed gives the same picture in 31 % of the memory and 0.7 times the time."
    )
    assert str(conclusion([whole, tiled])).startswith("Tiled gives a visibly different picture in 20 %")
    assert "2.5 MB over the network" in str(conclusion([whole, planted("remote", 60, 1, 1, 2_500_000)]))
    assert (
        str(conclusion([Row("whole", error=literal("no")), tiled]))
        == "The whole picture did not fit, but “tiled” made it."
    )
    assert str(conclusion([Row("whole", error=literal("no"))])) == "No mode could make this picture here."
    assert "nothing to compare" in str(conclusion([whole]))

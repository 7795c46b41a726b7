from __future__ import annotations

import math
import threading

import pytest
from PIL import Image

from backend.compare import Row, compare, conclusion
from backend.errors import Cancelled
from backend.job import VaeOptions
from backend.message import Message, literal
from backend.report import Cost, StageReport, Traffic
from backend.studio import Studio

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

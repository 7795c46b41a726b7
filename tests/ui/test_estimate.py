from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ExifTags, Image

from backend.placement.estimate import Estimate
from ui.estimate import line, picture_size, sentence


def test_known_figures_are_told_and_unknown_ones_left_out() -> None:
    known = Estimate(4.2, 2_100_000_000, 8_000_000_000, "whole", "streamed")
    assert sentence(known, "en") == "About 4.2 s, 2.1 GB of 8 GB free memory, encode whole, decode streamed"
    unknown = Estimate(None, None, 8_000_000_000, "remote", "whole")
    assert sentence(unknown, "en") == "encode remote, decode whole"


def test_what_does_not_fit_is_a_warning_with_a_way_out() -> None:
    html = line(Estimate(None, 12_900_000_000, 8_000_000_000, "whole", "whole"))
    assert "may run out of memory" in html and "Streamed" in html and 'data-state="bad"' in html


def test_the_line_keeps_its_place_while_empty() -> None:
    assert line() == '<p class="lr-estimate" data-state=""></p>'


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_a_picture_that_its_exif_turns_is_estimated_as_it_is_seen(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a portrait from a phone held upright
    Image.new("RGB", (64, 48)).save(tmp_path / f"turned.{form}", exif=exif)
    Image.new("RGB", (64, 48)).save(tmp_path / f"plain.{form}")
    assert picture_size(str(tmp_path / f"turned.{form}")) == (48, 64)
    assert picture_size(str(tmp_path / f"plain.{form}")) == (64, 48)


def test_no_picture_is_estimated_as_a_square() -> None:
    assert picture_size(None) == picture_size(__file__) == (1, 1)

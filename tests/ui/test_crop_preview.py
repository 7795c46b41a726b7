"""The preview of what goes in: its shape, its size, and what happens to the rest."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes import FakeStudio
from ui.crop_preview import crop_preview
from ui.form import Values


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """Red on the left, green in the middle, blue on the right: 400 by 100."""
    picture = Image.new("RGB", (400, 100), "green")
    picture.paste("red", (0, 0, 100, 100))
    picture.paste("blue", (300, 0, 400, 100))
    picture.save(tmp_path / "wide.png")
    return str(tmp_path / "wide.png")


def preview(values: Values, locale: str) -> str:
    return crop_preview(FakeStudio(), values, locale)  # type: ignore[arg-type]


def seen(html: str) -> Image.Image:
    found = re.search(r"base64,([^\"]+)", html)
    assert found
    return Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")


def kind(colour: tuple[int, ...]) -> str:
    return ("red", "green", "blue")[max(range(3), key=lambda index: colour[index])]


def test_crop_loses_the_sides_stretch_keeps_them_and_borders_are_added(wide: str) -> None:
    shown = {
        fit: preview(Values(wide, width=256, height=256, fit=fit), "en")  # type: ignore[arg-type]
        for fit in ("crop", "fit", "stretch")
    }
    corners = {}
    for fit, html in shown.items():
        picture = seen(html)
        assert picture.size == (200, 200) and "256 × 256" in html and "400 × 100" in html
        corners[fit] = [kind(picture.getpixel((x, 100))) for x in (5, 100, 195)]  # type: ignore[arg-type]
    assert corners["crop"] == ["green"] * 3
    assert corners["stretch"] == corners["fit"] == ["red", "green", "blue"]
    assert "Cropped" in shown["crop"] and "borders" in shown["fit"] and "Stretched" in shown["stretch"]
    assert len({str(seen(html).getpixel((100, 5))) for html in shown.values()}) > 1, "a border above"


def test_the_shape_of_the_picture_is_followed_where_nothing_is_asked(wide: str) -> None:
    html = preview(Values(wide), "en")
    assert "All of it goes in: 400 × 100 becomes 512 × 128 pixels." in html


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (Values(None), "Choose a picture"),
        (Values(__file__), "not a picture"),
        (Values(None, width=9), "Choose a picture"),
    ],
)
def test_what_cannot_be_shown_is_said(values: Values, sentence: str) -> None:
    assert sentence in preview(values, "en")


def test_a_size_out_of_range_is_said_in_the_visitors_language(wide: str) -> None:
    assert "Breite und Höhe müssen" in preview(Values(wide, width=9), "de")

"""Draws the example pictures and the icon: `python -m ui.assets.draw`. Crude on purpose, as a person would."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
SIZE = 512
_SCALE = 2
"""Drawn twice as large and shrunk, which softens the edges."""


def _canvas(sky: tuple[int, int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), sky)
    return image, ImageDraw.Draw(image)


def _points(*pairs: tuple[float, float]) -> list[tuple[float, float]]:
    """Pairs in 0..1 as pixels."""
    return [(x * SIZE * _SCALE, y * SIZE * _SCALE) for x, y in pairs]


def mountains() -> Image.Image:
    image, draw = _canvas((150, 200, 235))
    draw.ellipse(_points((0.72, 0.11), (0.84, 0.23)), fill=(255, 220, 90))
    draw.polygon(
        _points(
            (0, 0.67),
            (0.15, 0.4),
            (0.27, 0.52),
            (0.45, 0.17),
            (0.6, 0.44),
            (0.71, 0.33),
            (1, 0.65),
            (1, 0.8),
            (0, 0.8),
        ),
        fill=(122, 118, 128),
    )
    draw.polygon(
        _points((0.38, 0.31), (0.45, 0.17), (0.52, 0.31), (0.48, 0.29), (0.44, 0.33), (0.41, 0.29)),
        fill=(246, 246, 250),
    )
    draw.polygon(_points((0.66, 0.38), (0.71, 0.33), (0.77, 0.385), (0.72, 0.41)), fill=(246, 246, 250))
    draw.polygon(_points((0, 0.645), (0.3, 0.615), (1, 0.67), (1, 1), (0, 1)), fill=(95, 150, 70))
    draw.polygon(
        _points((0.43, 0.655), (0.53, 0.655), (0.47, 0.76), (0.74, 1), (0.34, 1), (0.39, 0.78)),
        fill=(90, 150, 215),
    )
    return image


def sea() -> Image.Image:
    image, draw = _canvas((245, 190, 120))
    draw.ellipse(_points((0.4, 0.41), (0.58, 0.59)), fill=(255, 240, 180))
    draw.rectangle(_points((0, 0.55), (1, 1)), fill=(60, 110, 170))
    draw.polygon(_points((0.42, 0.55), (0.56, 0.55), (0.6, 1), (0.36, 1)), fill=(120, 140, 170))
    draw.polygon(_points((0, 0.55), (0, 0.33), (0.16, 0.42), (0.34, 0.55)), fill=(90, 80, 95))
    draw.polygon(_points((0.62, 0.74), (0.86, 0.74), (0.81, 0.8), (0.67, 0.8)), fill=(110, 60, 30))
    draw.polygon(_points((0.73, 0.53), (0.73, 0.73), (0.84, 0.73)), fill=(250, 250, 245))
    draw.polygon(_points((0.71, 0.57), (0.71, 0.73), (0.64, 0.73)), fill=(235, 235, 228))
    return image


def castle() -> Image.Image:
    image, draw = _canvas((176, 190, 222))
    draw.ellipse(_points((0.1, 0.1), (0.34, 0.2)), fill=(238, 240, 246))
    draw.ellipse(_points((0.2, 0.07), (0.44, 0.18)), fill=(238, 240, 246))
    draw.ellipse(_points((-0.3, 0.56), (0.75, 1.3)), fill=(104, 148, 82))
    draw.ellipse(_points((0.3, 0.62), (1.4, 1.4)), fill=(86, 132, 74))
    draw.rectangle(_points((0.5, 0.42), (0.78, 0.68)), fill=(170, 150, 140))
    for x in (0.46, 0.6, 0.74):
        draw.rectangle(_points((x, 0.33), (x + 0.09, 0.68)), fill=(150, 130, 124))
        draw.polygon(_points((x - 0.02, 0.33), (x + 0.045, 0.2), (x + 0.11, 0.33)), fill=(70, 82, 140))
    draw.rectangle(_points((0.62, 0.57), (0.67, 0.68)), fill=(80, 60, 54))
    draw.polygon(_points((0.62, 0.68), (0.67, 0.68), (0.52, 1), (0.3, 1)), fill=(206, 186, 140))
    draw.rectangle(_points((0.155, 0.6), (0.185, 0.74)), fill=(96, 66, 44))
    draw.ellipse(_points((0.07, 0.44), (0.27, 0.65)), fill=(58, 108, 60))
    return image


def icon() -> Image.Image:
    """Three relay stations on a line, the middle one large."""
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((8, 8, 248, 248), radius=56, fill=(31, 107, 91, 255))
    draw.line((52, 128, 204, 128), fill=(214, 235, 228, 255), width=12)
    for x, radius, colour in (
        (56, 24, (240, 190, 92)),
        (128, 40, (250, 248, 244)),
        (200, 24, (172, 160, 230)),
    ):
        draw.ellipse((x - radius, 128 - radius, x + radius, 128 + radius), fill=(*colour, 255))
    return image.resize((128, 128), Image.Resampling.LANCZOS)


def brush() -> Image.Image:
    """A brush with paint on it, and the stroke that it leaves: the button that opens the sketch pad."""
    image, draw = _canvas((246, 246, 250))
    draw.line(_points((0.14, 0.84), (0.3, 0.76), (0.44, 0.84), (0.6, 0.8)), fill=(60, 110, 170), width=76)
    draw.polygon(_points((0.5, 0.52), (0.6, 0.62), (0.94, 0.2), (0.86, 0.12)), fill=(110, 60, 30))
    draw.polygon(_points((0.5, 0.52), (0.6, 0.62), (0.52, 0.72), (0.3, 0.78), (0.4, 0.6)), fill=(29, 28, 26))
    return image


EXAMPLES = {"mountains": mountains, "sea": sea, "castle": castle}


def main() -> None:
    for name, draw in EXAMPLES.items():
        draw().resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(HERE / f"{name}.png", optimize=True)
    brush().resize((128, 128), Image.Resampling.LANCZOS).save(HERE / "draw.png", optimize=True)
    icon().save(HERE / "icon.png", optimize=True)


if __name__ == "__main__":
    main()

"""Crude sketches such as a person makes in a minute with a mouse: what img2img is shown and measured on."""

from collections.abc import Callable

from PIL import Image, ImageDraw

SIZE = 256
Pen = ImageDraw.ImageDraw

SKY, DARK_SKY, EVENING = (150, 200, 235), (28, 32, 70), (245, 190, 120)
GRASS, ROCK, WATER, SAND = (95, 150, 70), (125, 120, 125), (80, 140, 205), (225, 190, 130)
SNOW, SUN, TREE, WOOD = (245, 245, 250), (255, 220, 90), (50, 105, 55), (110, 60, 30)


def peaks(pen: Pen) -> None:
    """Mountains, a river, the sun."""
    pen.ellipse((186, 30, 216, 60), fill=SUN)
    pen.polygon(
        [(0, 170), (40, 105), (70, 130), (115, 45), (150, 110), (180, 85), (256, 165), (256, 256), (0, 256)],
        ROCK,
    )
    pen.polygon([(98, 80), (115, 45), (133, 80), (124, 74), (114, 84), (106, 74)], SNOW)
    pen.polygon([(167, 97), (180, 85), (195, 97), (184, 102)], SNOW)
    pen.polygon([(0, 165), (80, 158), (256, 172), (256, 256), (0, 256)], GRASS)
    pen.polygon([(110, 168), (135, 168), (120, 195), (190, 256), (90, 256), (100, 195)], WATER)


def boat(pen: Pen) -> None:
    """A sail on the sea, land at the left."""
    pen.ellipse((110, 110, 150, 150), fill=(255, 240, 180))
    pen.rectangle((0, 150, 256, 256), fill=(60, 110, 170))
    pen.polygon([(0, 150), (0, 90), (50, 120), (90, 150)], (90, 80, 90))
    pen.polygon([(150, 190), (222, 190), (206, 206), (164, 206)], WOOD)
    pen.polygon([(184, 130), (184, 187), (216, 187)], (250, 250, 245))


def castle(pen: Pen) -> None:
    """A castle on a hill, a path."""
    pen.polygon([(0, 190), (70, 165), (130, 140), (200, 160), (256, 185), (256, 256), (0, 256)], GRASS)
    pen.rectangle((95, 95, 165, 150), fill=(160, 150, 145))
    for left in (85, 120, 153):
        pen.rectangle((left, 70, left + 22, 150), fill=(175, 165, 160))
        pen.polygon([(left - 4, 70), (left + 11, 42), (left + 26, 70)], (120, 50, 60))
    pen.polygon([(125, 150), (138, 150), (175, 256), (110, 256)], (190, 165, 120))


def night(pen: Pen) -> None:
    """The moon over a lake and mountains."""
    pen.ellipse((60, 35, 92, 67), fill=(245, 240, 215))
    pen.polygon([(0, 140), (60, 95), (110, 135), (170, 70), (256, 140)], (60, 60, 85))
    pen.rectangle((0, 140, 256, 256), fill=(35, 50, 95))
    pen.polygon([(0, 256), (0, 220), (120, 236), (256, 215), (256, 256)], (30, 50, 40))


def house(pen: Pen) -> None:
    """A house and two trees on a meadow."""
    pen.rectangle((0, 150, 256, 256), fill=GRASS)
    pen.rectangle((95, 120, 165, 180), fill=(220, 200, 170))
    pen.polygon([(85, 122), (130, 82), (175, 122)], (170, 70, 50))
    for x in (40, 215):
        pen.rectangle((x - 4, 140, x + 4, 185), fill=WOOD)
        pen.ellipse((x - 26, 85, x + 26, 150), fill=TREE)


def dunes(pen: Pen) -> None:
    """Sand hills with a pyramid."""
    pen.polygon([(120, 140), (175, 75), (230, 140)], (205, 165, 110))
    pen.polygon([(0, 150), (90, 125), (256, 150), (256, 256), (0, 256)], SAND)
    pen.polygon([(0, 210), (140, 180), (256, 220), (256, 256), (0, 256)], (210, 165, 105))


DRAWN: dict[str, tuple[Callable[[Pen], None], tuple[int, int, int]]] = {
    "peaks": (peaks, SKY),
    "boat": (boat, EVENING),
    "castle": (castle, SKY),
    "night": (night, DARK_SKY),
    "house": (house, SKY),
    "dunes": (dunes, EVENING),
}


def sketch(name: str) -> Image.Image:
    """256 x 256, RGB."""
    draw, background = DRAWN[name]
    image = Image.new("RGB", (SIZE, SIZE), background)
    draw(ImageDraw.Draw(image))
    return image

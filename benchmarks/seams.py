"""The README's figure: one picture decoded whole, in tiles and streamed, with where each differs from whole.

    python -m benchmarks.seams [PICTURE] [--size 512] [--out docs/seams.png]

Real weights: those of the built-in model's VAE. Differences are drawn at 32 levels to white, as in the Compare tab.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from backend import images
from backend.compare import Row, compare
from backend.job import VaeOptions
from backend.quality import difference_picture
from backend.settings import Settings
from backend.studio import Studio
from benchmarks.common import publish

ROOT = Path(__file__).parent.parent
TILES = VaeOptions(tile_size=128, tile_overlap=32)
GAP, HEAD = 12, 54


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", nargs="?", type=Path, default=ROOT / "ui" / "assets" / "mountains.png")
    parser.add_argument("--size", type=int, default=512, help="pixels a side (default 512)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "seams.png")
    options = parser.parse_args()
    with Image.open(options.picture) as opened:
        picture = images.resize(images.to_rgb(opened), options.size, options.size)
    rows = list(compare(Studio(Settings(model="builtin")), picture, "builtin", ["tiled", "streamed"], TILES))
    figure(rows).save(options.out)
    publish("seams", {"rows": [row.as_dict() for row in rows]}, save=False)


def figure(rows: list[Row]) -> Image.Image:
    """Whole, tiled and streamed above; the differences of the latter two from whole below."""
    pictures = {row.mode: row for row in rows if row.image is not None}
    whole = pictures["whole"].image
    assert whole is not None
    side = 360
    sheet = Image.new("RGB", (3 * side + 4 * GAP, 2 * (side + HEAD) + 3 * GAP), "white")
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(18), ImageFont.load_default(14)
    for column, mode in enumerate(("whole", "tiled", "streamed")):
        row = pictures[mode]
        assert row.image is not None
        left = GAP + column * (side + GAP)
        draw.text((left, GAP), mode, "black", bold)
        draw.text((left, GAP + 26), facts(row), "#444", plain)
        sheet.paste(row.image.resize((side, side)), (left, GAP + HEAD))
        if mode != "whole":
            top = 2 * GAP + HEAD + side
            draw.text((left, top + 26), f"{mode}: difference from whole", "#444", plain)
            sheet.paste(difference_picture(row.image, whole).resize((side, side)), (left, top + HEAD))
    caption = (
        "Below: the difference from whole.\nBlack is none; the brighter, the more.\n\n"
        f"{whole.width} x {whole.height} pixels through the\nbuilt-in model's VAE and back;\n"
        f"tiles of {TILES.tile_size} pixels, overlap {TILES.tile_overlap}."
    )
    draw.multiline_text((GAP, 2 * GAP + 2 * HEAD + side), caption, "#444", plain, spacing=8)
    return sheet


def facts(row: Row) -> str:
    if row.mode == "whole":
        return "the measure"
    seam = "none" if row.seam_score is None else f"{row.seam_score:.1f}"
    return f"PSNR {row.psnr:.1f} dB, colour error {row.colour_difference:.2f}, seams {seam}"


if __name__ == "__main__":
    main()

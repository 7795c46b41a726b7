"""Several pictures on one sheet, each with its caption: what a series of runs ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw


def contact_sheet(pictures: Sequence[tuple[Path, str]], gap: int = 12, caption: int = 26) -> Image.Image:
    """(file, caption) two by two on warm paper, all as large as the first; `gap` and `caption` in pixels."""
    opened = [(Image.open(path).convert("RGB"), text) for path, text in pictures]
    width, height = opened[0][0].size
    rows = (len(opened) + 1) // 2
    size = (2 * width + 3 * gap, rows * (height + caption + gap) + gap)
    sheet = Image.new("RGB", size, (250, 248, 244))
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(opened):
        x = gap + (index % 2) * (width + gap)
        y = gap + (index // 2) * (height + caption + gap)
        sheet.paste(image, (x, y))
        draw.text((x + 2, y + height + 5), text, fill=(29, 28, 26), font_size=15)
    return sheet

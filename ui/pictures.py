"""Pictures between files and the page: uploads as PIL pictures, results as addresses for the viewer."""

from __future__ import annotations

import base64
import io
import secrets
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from backend.errors import BadImageError
from backend.images import BROKEN
from backend.message import literal
from ui.cleaning import DRAWINGS
from ui.runs import disk_may_be_full
from ui.text import say

_LARGEST_DRAWING = 8_000_000


def open_picture(path: str | None, locale: str = "en") -> Image.Image:
    """The picture in that file, loaded.

    Raises:
        BadImageError: no file, or one that Pillow cannot read.
    """
    if not path:
        raise BadImageError(literal(say(locale, "needs_picture")))
    try:
        image = Image.open(path)
        image.load()
    except BROKEN as error:
        head = Path(path).read_bytes()[4:12] if Path(path).is_file() else b""
        heic = head[:4] == b"ftyp" and head[4:] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")
        raise BadImageError(literal(say(locale, "heic" if heic else "unreadable"))) from error
    return image


def data_uri(image: Image.Image, quality: int = 80) -> str:
    """A small picture inside the address itself, for previews."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def file_url(path: Path) -> str:
    """Where the browser finds a file under an allowed path; relative, so that a proxy's prefix does no harm."""
    return "gradio_api/file=" + quote(str(path))


def save_drawing(address: str, folder: Path, locale: str = "en") -> str:
    """The sketch pad's PNG, out of its address, as a file that the upload can show.

    Raises:
        BadImageError: not such an address; it comes from a browser, so it may be anything.
        DiskFullError: no room for it.
    """
    _, _, body = address[:_LARGEST_DRAWING].partition(",")
    try:
        with Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=["PNG"]) as image:
            drawing = image.convert("RGB")
    except BROKEN as error:
        raise BadImageError(literal(say(locale, "unreadable"))) from error
    path = folder / DRAWINGS / f"{secrets.token_urlsafe(16)}.png"
    with disk_may_be_full():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.save(path)
    return str(path)

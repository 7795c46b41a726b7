"""Pictures between files and the page: uploads as PIL pictures, results as addresses for the viewer."""

from __future__ import annotations

import base64
import io
import re
import secrets
from pathlib import Path
from urllib.parse import quote

from PIL import ExifTags, Image
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from backend.errors import BadImageError
from backend.images import BROKEN
from backend.message import literal
from ui.cleaning import DRAWINGS, RUN_ID
from ui.runs import disk_may_be_full
from ui.text import say
from ui.theme import ASSETS

_PICTURE = re.compile(r"[a-z0-9-]{1,64}\.png")
"""Names that we give to what a run makes."""
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


def picture_size(path: str | None) -> tuple[int, int]:
    """(width, height) as the picture is seen, that is, turned as its EXIF says; no pixel is read.

    (1, 1) without a picture, or with one that cannot be read, which is said when it is used.
    """
    if not path:
        return 1, 1
    try:
        with Image.open(path) as picture:
            # Pillow would read a whole PNG in search of EXIF behind the pixels.
            turned = picture.format != "PNG" or "exif" in picture.info
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
            width, height = picture.size
    except BROKEN:
        return 1, 1
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def data_uri(image: Image.Image, quality: int = 80) -> str:
    """A small picture inside the address itself, for previews."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def file_url(path: Path) -> str:
    """Where the browser finds a run's picture; relative, so that a proxy's prefix does no harm. See `picture_route`."""
    return f"runs/{path.parent.name}/{quote(path.name)}"


def picture_route(folder: Path) -> Route:
    """Serves the pictures of runs by id and name. Gradio's own addresses would tell where `folder` lies."""

    async def picture(request: Request) -> Response:
        run_id, name = request.path_params["run_id"], request.path_params["name"]
        path = folder / run_id / name
        if not RUN_ID.fullmatch(run_id) or not _PICTURE.fullmatch(name) or not path.is_file():
            return PlainTextResponse("There is no such picture.", 404)
        return FileResponse(path, media_type="image/png", headers={"x-content-type-options": "nosniff"})

    return Route("/runs/{run_id}/{name}", picture)


def asset_url(name: str) -> str:
    """Where the browser finds the app's own picture of that name; relative as well. See `asset_route`."""
    return f"pictures/{name}.png"


def asset_route() -> Route:
    """Serves the app's own pictures, by name."""
    paths = {path.name: path for path in ASSETS.glob("*.png")}

    async def picture(request: Request) -> Response:
        path = paths.get(request.path_params["name"])
        if path is None:
            return PlainTextResponse("There is no such picture.", 404)
        return FileResponse(path, media_type="image/png")

    return Route("/pictures/{name}", picture)


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

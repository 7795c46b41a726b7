"""How a picture was made, in the PNG's text chunks: ours as JSON, and the "parameters" text that others read.

Ours is read back whole, and what other programs wrote as far as it means something here (`ui.recipe_formats`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from backend.comfyui import MAX_TEXT
from backend.images import BROKEN
from backend.message import Message, literal
from backend.models import ModelSpec
from backend.report import Cost, StageReport, Traffic
from ui.form import clean
from ui.languages import MESSAGES
from ui.recipe_formats import Restored, restored_from
from ui.widgets import AS_ABOVE

CHUNK = "latent-relay"
_MAX_CHUNK = 65_536
"""Letters of a text chunk that are read; a longer one is taken for absent. ComfyUI's graphs may be longer."""
_COMMENT = 0x9286
"""EXIF's UserComment, where AUTOMATIC1111 has its text in a JPEG or WebP."""
_JOINED = re.compile(r"\{part\d\}(?: \{part\d\})+")
"""The key of `backend.message.join(…)`."""


@dataclass(frozen=True)
class PngMetadata:
    """What Latent Relay writes into a picture: the job's recipe and a report of each stage."""

    recipe: dict[str, Any]
    reports: tuple[StageReport, ...]


def parameters_text(recipe: dict[str, Any]) -> str:
    """The recipe as AUTOMATIC1111's "parameters" text: prompt, negative prompt, then key: value pairs."""
    lines = [recipe["prompt"]]
    if recipe["negative_prompt"]:
        lines.append(f"Negative prompt: {recipe['negative_prompt']}")
    pairs = {
        "Steps": recipe["num_inference_steps"],
        "Sampler": recipe["scheduler"],
        "CFG scale": recipe["guidance_scale"],
        "Seed": recipe["seed"],
        "Size": f"{recipe['width']}x{recipe['height']}",
        "Model": recipe["model"],
        "Denoising strength": recipe["strength"],
        "Version": "Latent Relay",
    }
    lines.append(", ".join(f"{key}: {value}" for key, value in pairs.items()))
    return "\n".join(lines)


def save_png(path: Path, image: Image.Image, recipe: dict[str, Any], reports: Sequence[StageReport]) -> None:
    """Write `image` with its recipe and where each stage really ran."""
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(recipe))
    metadata = {"recipe": recipe, "stages": [report.as_dict() for report in reports]}
    info.add_itxt(CHUNK, json.dumps(metadata, ensure_ascii=False))
    image.save(path, pnginfo=info)


def read_text(path: Path) -> dict[str, str]:
    """The text chunks of a picture by name, without overlong ones; empty for a file that is no picture."""
    try:
        with Image.open(path) as image:
            image.load()  # chunks may follow the pixels
            chunks = {key: value for key, value in image.info.items() if isinstance(value, str)}
            if image.format in ("JPEG", "WEBP"):
                chunks["parameters"] = _comment(image.getexif().get_ifd(ExifTags.IFD.Exif).get(_COMMENT))
    except BROKEN:
        return {}
    longest = {"prompt": MAX_TEXT}
    return {key: value for key, value in chunks.items() if len(value) <= longest.get(key, _MAX_CHUNK)}


def _comment(value: Any) -> str:
    """The text of an EXIF UserComment: eight letters name its code."""
    code, text = (value[:8], value[8:]) if isinstance(value, bytes) else (b"", b"")
    return text.decode("utf-16-be" if code.startswith(b"UNICODE") else "utf-8", "replace")


def read_metadata(path: Path) -> PngMetadata | None:
    """Our own chunk; None if it is missing or broken."""
    return _metadata(read_text(path))


def _metadata(chunks: Mapping[str, str]) -> PngMetadata | None:
    try:
        data = json.loads(chunks[CHUNK])
        return PngMetadata(dict(data["recipe"]), tuple(_report(stage) for stage in data["stages"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _report(data: dict[str, Any]) -> StageReport:
    cost = {key: data["cost"][key] for key in Cost.__dataclass_fields__}
    traffic = data.get("traffic")
    more = {key: data.get(key) for key in ("steps", "dtype", "requested_mode", "overlapped_seconds")}
    return StageReport(
        stage=data["stage"],
        mode=data["mode"],
        reason=_message(data, "reason"),
        where=_message(data, "where"),
        cost=Cost(**cost),
        traffic=Traffic(**{key: traffic[key] for key in Traffic.__dataclass_fields__}) if traffic else None,
        avoided_bytes=data.get("spared_bytes"),
        **more,
    )


def _message(data: dict[str, Any], name: str) -> Message:
    """A report's sentence as a message, so that it can be shown in any language; else its English text.

    The file may come from anyone, and `str.format` with somebody else's template can read attributes or allocate
    without bound. So the template must be one of the backend's own.
    """
    text = str(data[name])
    try:
        message = _known_message(data["messages"][name])
        return message if str(message) == text else literal(text)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ):  # what a format may raise, too
        return literal(text)


def _known_message(data: dict[str, Any]) -> Message:
    """A known key with plain or nested values.

    Raises:
        KeyError, TypeError, ValueError: anything else.
    """
    key, values = data["key"], data["values"]
    known = key in ("", "{text}") or any(key in table for table in MESSAGES.values())
    if not known and not _JOINED.fullmatch(key):
        raise ValueError("not a sentence of the backend")
    return Message(key, **{name: _known_value(value) for name, value in dict(values).items()})


def _known_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _known_message(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError("neither plain nor a message")


def settings_in(path: Path, models: Mapping[str, ModelSpec]) -> Restored | None:
    """What the picture says about how it was made, by us or by another program; None if it says nothing."""
    chunks = read_text(path)
    metadata = _metadata(chunks)
    if metadata is not None:
        settings = settings_of(metadata.recipe, models)
        return Restored(settings) if settings else None
    return restored_from(chunks)


def settings_of(recipe: dict[str, Any], models: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """A recipe of ours as values of the form."""
    encode, decode = recipe.get("encode_mode", "auto"), recipe.get("decode_mode", "auto")
    return clean(
        recipe
        | {
            "steps": recipe.get("num_inference_steps"),
            "guidance": recipe.get("guidance_scale"),
            "mode": encode,
            "encode_mode": AS_ABOVE,
            "decode_mode": AS_ABOVE if decode == encode else decode,
        },
        models,
    )

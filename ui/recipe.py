"""How a picture was made, in the PNG's text chunks: ours as JSON, and the "parameters" text that others read.

Both are read back as well: ours whole, and AUTOMATIC1111's as far as its settings mean something here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.job import SCHEDULERS
from backend.message import Message
from backend.report import Cost, StageReport, Traffic
from ui.form import AS_ABOVE, clean

CHUNK = "latent-relay"
_PAIR = re.compile(r'\s*([\w \-/]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Story:
    """What a picture of ours tells about itself."""

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
    story = {"recipe": recipe, "stages": [report.as_dict() for report in reports]}
    info.add_itxt(CHUNK, json.dumps(story, ensure_ascii=False))
    image.save(path, pnginfo=info)


def read_text(path: Path) -> dict[str, str]:
    """The text chunks of a picture, empty where there are none. The file may be anything."""
    try:
        with Image.open(path) as image:
            image.load()  # chunks may follow the pixels
            return {key: value for key, value in image.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {}


def read_story(path: Path) -> Story | None:
    """Our own chunk, if it is there and whole."""
    try:
        data = json.loads(read_text(path)[CHUNK])
        return Story(dict(data["recipe"]), tuple(_report(stage) for stage in data["stages"]))
    except (KeyError, TypeError, ValueError):
        return None


def _report(data: dict[str, Any]) -> StageReport:
    cost = {key: data["cost"][key] for key in Cost.__dataclass_fields__}
    traffic = data.get("traffic")
    more = {key: data.get(key) for key in ("steps", "dtype", "requested_mode", "overlapped_seconds")}
    return StageReport(
        stage=data["stage"],
        mode=data["mode"],
        reason=Message(data["reason"]),
        where=Message(data["where"]),
        cost=Cost(**cost),
        traffic=Traffic(**{key: traffic[key] for key in Traffic.__dataclass_fields__}) if traffic else None,
        avoided_bytes=data.get("spared_bytes"),
        **more,
    )


def settings_in(path: Path) -> dict[str, Any]:
    """The form's values that made this picture, ours or AUTOMATIC1111's; empty if it does not say."""
    story = read_story(path)
    if story is not None:
        return settings_of(story.recipe)
    text = read_text(path).get("parameters", "")
    return parse_parameters(text) if "Steps:" in text else {}


def settings_of(recipe: dict[str, Any]) -> dict[str, Any]:
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
        }
    )


def parse_parameters(text: str) -> dict[str, Any]:
    """AUTOMATIC1111's text as values of the form. Its models are not ours, so the model stays."""
    head, _, tail = text.strip().rpartition("\n")
    if "Steps:" not in tail:
        head, tail = text.strip(), ""
    prompt, _, negative = head.partition("Negative prompt:")
    pairs = {key.strip(): value.strip().strip('"') for key, value in _PAIR.findall(tail)}
    width, _, height = pairs.get("Size", "").partition("x")
    raw = {
        "prompt": prompt.strip(),
        "negative_prompt": negative.strip(),
        "steps": pairs.get("Steps"),
        "guidance": pairs.get("CFG scale"),
        "seed": pairs.get("Seed"),
        "strength": pairs.get("Denoising strength"),
        "width": width,
        "height": height,
        "scheduler": _scheduler(pairs.get("Sampler", "")),
    }
    return clean({key: value for key, value in raw.items() if value is not None})


def _scheduler(name: str) -> str:
    """The scheduler of that name here; a suffix such as "Karras" is a schedule, which is not offered."""
    known = sorted(SCHEDULERS, key=len, reverse=True)
    return next((ours for ours in known if name.lower().startswith(ours.lower())), "default")

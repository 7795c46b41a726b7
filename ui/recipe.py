"""How a picture was made, in the PNG's text chunks: ours as JSON, and the "parameters" text that others read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.report import StageReport

CHUNK = "latent-relay"


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

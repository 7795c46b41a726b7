"""One-click looks and examples: words for the prompt, and settings, that suit the chosen model.

The built-in model knows landscapes and few words; the large models want them richer.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.models import BUILTIN, SD_V1
from ui.text import say

LOOKS: dict[str, str] = {
    "oil": "oil painting, brush strokes",
    "watercolour": "watercolor on paper",
    "pencil": "a pencil sketch",
    "photo": "photo, photorealistic, sharp focus",
    "fantasy": "fantasy art, magical",
    "winter": "in winter, snow",
    "autumn": "in autumn, with orange leaves",
    "night": "at night, moonlight, stars",
    "sunset": "at sunset, in warm evening light",
}
LARGE_LOOKS: dict[str, str] = {
    "oil": "oil on canvas, visible brush strokes, impasto",
    "watercolour": "loose watercolor on textured paper, soft washes",
    "pencil": "detailed graphite pencil drawing, cross-hatching",
    "photo": "photograph, 35 mm, natural light, sharp focus, high detail",
    "fantasy": "fantasy concept art, epic, volumetric light, highly detailed",
    "winter": "in deep winter, fresh snow, cold clear light",
    "autumn": "in autumn, orange and red leaves, low sun",
    "night": "at night, moonlight, stars, long exposure",
    "sunset": "at sunset, golden hour, dramatic clouds",
}


@dataclass(frozen=True)
class Example:
    """What an example picture should become; None leaves a setting as it is."""

    prompt: str
    strength: float | None = None
    steps: int | None = None
    guidance: float | None = None


EXAMPLES = ("mountains", "sea", "castle")
LARGE_EXAMPLES: dict[str, Example] = {
    "mountains": Example("A fantasy landscape, trending on artstation"),
    "sea": Example("A sailing boat on a stormy sea, dramatic light, oil on canvas"),
    "castle": Example("A castle above a misty valley, fantasy concept art, highly detailed"),
}
SD_V1_PROGRAM = {"strength": 0.75, "steps": 50, "guidance": 7.5}
"""What Stable Diffusion v1's img2img was first shown with, on a sketch of mountains."""


def looks_of(model: str) -> dict[str, str]:
    return LOOKS if model == BUILTIN.name else LARGE_LOOKS


def example_of(model: str, name: str, locale: str = "en") -> Example:
    """The example called `name` for that model; the built-in one understands `locale`."""
    if model == BUILTIN.name:
        return Example(say(locale, f"prompt_of_{name}"))
    example = LARGE_EXAMPLES[name]
    return Example(example.prompt, **SD_V1_PROGRAM) if model == SD_V1.name else example  # type: ignore[arg-type]


def with_look(prompt: str | None, look: str, model: str = BUILTIN.name) -> str:
    """The prompt with this look in place of any other; the same look once more takes it away."""
    words, wanted = (prompt or "").strip(), looks_of(model)[look]
    had = words.endswith(wanted)
    for known in (*LOOKS.values(), *LARGE_LOOKS.values()):
        words = words.removesuffix(known).rstrip(", ")
    if had:
        return words
    return f"{words}, {wanted}" if words else wanted

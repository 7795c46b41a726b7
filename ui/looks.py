"""One-click looks: words that are put behind the prompt, one look at a time."""

from __future__ import annotations

LOOKS: dict[str, str] = {
    "oil": "oil painting, brush strokes",
    "watercolour": "watercolor on paper",
    "pencil": "a pencil sketch",
    "photo": "photograph, sharp, natural light",
    "fantasy": "fantasy art, magical light",
    "winter": "winter, snow",
    "autumn": "autumn, orange leaves",
    "night": "at night, moonlight, stars",
    "sunset": "at sunset, warm light",
}


def with_look(prompt: str | None, look: str) -> str:
    """The prompt with this look in place of any other; the same look once more takes it away."""
    words = (prompt or "").strip()
    had = words.endswith(LOOKS[look])
    for known in LOOKS.values():
        words = words.removesuffix(known).rstrip(", ")
    if had:
        return words
    return f"{words}, {LOOKS[look]}" if words else LOOKS[look]

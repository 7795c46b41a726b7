"""What a page says, and whether each sentence is in a language's table."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import cache
from typing import Any

from backend.job import SCHEDULERS
from backend.models import MODELS
from backend.placement.fit import card_choices
from ui.languages import LANGUAGES, MESSAGES

UPSTREAM = (
    "footer, button:has(.or), .wrap:has(> .or), .upload-container, .source-selection, .icon-button-wrapper, "
    ".file-preview, .wrap.default, .gallery-item, .thumbnail-item, .toast-close, .toast-title, .progress-text, .empty, "
    ".image-frame, .webcam-wrap, .reset-button, .overflow-menu"
)
"""Parts of Gradio's own components, which it translates itself, or not."""
COLLECT = """(upstream) => {
  const said = new Set();
  const add = (text) => { const t = (text || "").replace(/\\s+/g, " ").trim(); if (t) said.add(t); };
  const seen = (node) => node.checkVisibility({visibilityProperty: true}) && node.getClientRects().length > 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent || parent.closest("script, style, svg, code, pre, " + upstream) || !seen(parent)) continue;
    add(walker.currentNode.textContent);
  }
  for (const node of document.body.querySelectorAll("[aria-label], [placeholder], [title], [alt], [aria-valuetext]")) {
    if (node.closest("svg, code, " + upstream) || !seen(node)) continue;
    if (node.closest("button, input, textarea, img, [role], figure, li, i, table, div.lr-bar") === null) continue;
    const ours = node.closest("[class*=lr-]") || node.closest("[id^=lr-]");
    if (!ours) continue;
    for (const name of ["aria-label", "placeholder", "title", "alt", "aria-valuetext"]) {
      const text = node.getAttribute(name) || "";
      if (!/^(number input|range slider) for /.test(text)) add(text);  // Gradio's own, of its sliders
    }
  }
  for (const list of document.body.querySelectorAll("input[role=listbox]")) if (seen(list)) add(list.value);
  return [...said];
}"""

_UNITS = {
    "px",
    "gb",
    "mb",
    "kb",
    "b",
    "ms",
    "s",
    "min",
    "h",
    "db",
    "x",
    "psnr",
    "ssim",
    "vram",
    "ram",
    "http",
    "csv",
}
_FIELD = {
    "float32",
    "float16",
    "bfloat16",
    "uint8",
    "png",
    "jpg",
    "jpeg",
    "vae",
    "flux",
    "ddim",
    "lms",
    "pndm",
    "unipc",
}
_WORD = re.compile(r"[^\W\d_][\w.]*")


def untranslated(said: Iterable[str], locale: str, allowed: Iterable[str] = ()) -> list[str]:
    """Those of the texts that the table of `locale` does not have; `allowed`: prompts and names of this test."""
    names = {
        *allowed,
        *(spec.title for name, spec in MODELS.items() if name != "builtin"),
        *SCHEDULERS,
        *card_choices(),
        "Latent Relay",
    }
    return sorted(text for text in said if not _known(text, locale, frozenset(names)))


def _known(text: str, locale: str, names: frozenset[str], depth: int = 0) -> bool:
    """Whether a text is a sentence of the table, with values in its gaps, or several of them in a row."""
    text = text.strip(" .,·:;()/–…“”„«»\u202f\u00a0")
    if not text or text in names or not _letters(text):
        return True
    if depth > 4:
        return False
    for pattern, free in _patterns(locale):
        found = pattern.fullmatch(text)
        if found and all(
            gap in free or _known(value, locale, names, depth + 1) for gap, value in found.groupdict().items()
        ):
            return True
    for joint in (". ", " · ", "! ", "? ", ": ", ", ", " – ", " / ", " ("):
        for at in (m.start() for m in re.finditer(re.escape(joint), text)):
            first, rest = text[: at + 1], text[at + len(joint) :]
            if _known(first, locale, names, depth + 1) and _known(rest, locale, names, depth + 1):
                return True
    return False


def _letters(text: str) -> bool:
    """Whether there are words in it, and not only figures, units, hosts and the names of formats."""
    words = (word.lower().rstrip(".") for word in _WORD.findall(text))
    return any(word not in _UNITS | _FIELD and "." not in word for word in words)


@cache
def _patterns(locale: str) -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    """(pattern, names of the gaps that may hold anything) of each sentence, the longest first."""
    sentences = {
        *LANGUAGES[locale].values(),
        *(MESSAGES[locale].values() if locale != "en" else MESSAGES["de"]),
    }
    return tuple(
        _pattern(sentence) for sentence in sorted(sentences, key=len, reverse=True) if sentence != "{text}"
    )


def _pattern(sentence: str) -> tuple[re.Pattern[str], frozenset[str]]:
    parts, names = [], set()
    for literal, name, _, _ in string.Formatter().parse(
        re.sub(r"\s+", " ", sentence).strip(" .,·:;()/–…“”„«»\u202f\u00a0")
    ):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in names else f"(?P<{name}>.+?)")
            names.add(name)
    free = names & {"prompt", "words", "captions", "where", "host", "name", "model", "title", "card", "error"}
    return re.compile("".join(parts), re.DOTALL | re.IGNORECASE), frozenset(free - {"model", "title"})


def said_on(page: Any) -> list[str]:
    """What is visible on the page now, its labels and its texts for screen readers included."""
    return page.evaluate(COLLECT, UPSTREAM)

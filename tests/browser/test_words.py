"""Every word in the visitor's language: each sentence that a person can see or hear on the page is in its table.

Crawled are all tabs at the start, after a run, after a failure and after a picture brought its settings back, and the
tour. Left out are prompts, code, file names, addresses, and names that are the same in every language.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gradio
import pytest

from backend.errors import RemoteUnreachableError
from backend.models import MODELS
from backend.placement.cards import CARDS
from tests.browser.doing import open_tab, paint, saved, tab_names, upload
from tests.browser.launching import WatchedPages, page_of
from tests.fakes import FakeStudio
from ui.benchmark import RESULTS
from ui.first_sight import metadata
from ui.languages import LANGUAGES, MESSAGES

PROMPT = "zzz"
"""What the test paints; the page repeats it."""
UNITS = {"s", "ms", "min", "h", "B", "kB", "MB", "GB", "RAM", "VRAM", "dB", "x", "PSNR", "SSIM", "px"}
NAMES = {
    *(spec.title for spec in MODELS.values() if spec.name != "builtin"),
    *(name for spec in MODELS.values() for name in spec.schedulers),
    *("AMD EPYC", "Gradio", "Python", "curl", "vae.example.org", PROMPT),
    *(part for name in CARDS for part in (name, name.removeprefix("NVIDIA GeForce "))),
    *("float32", "float16", "bfloat16", "uint8"),
    *(path.stem for path in RESULTS.glob("*.json")),
}
SEPARATORS = re.compile(r" · | / |, |: |(?<=[.!?…]) | × | (?=\d)")


class Words:
    """The sentences of a language, and what may fill their gaps."""

    def __init__(self, language: str) -> None:
        messages = MESSAGES[language].values() if language in MESSAGES else MESSAGES["de"].keys()
        sentences = {
            *LANGUAGES[language].values(),
            *messages,
        }
        self.plain = {one for one in sentences if not _fields(one)} | gradio_words(language) | NAMES
        # Gaps alone, with marks between, would take any sentence.
        self.patterns = [
            _pattern(one) for one in sentences if _fields(one) and re.search(r"[^\W\d_]", _fixed(one))
        ]
        self.knows = cache(self._knows)

    def _knows(self, text: str) -> bool:
        if text in self.plain:
            return True
        text = text.strip(" \n·-–—()[]▼→←‹›")
        if not text or _is_data(text) or {text, text[:1].lower() + text[1:]} & self.plain:
            return True
        for pattern in self.patterns:
            found = pattern.fullmatch(text)
            if found and all(self.knows(part) for part in found.groups()):
                return True
        return any(
            self.knows(text[: at.start()]) and self.knows(text[at.end() :])
            for at in SEPARATORS.finditer(text)
        )


def _fields(sentence: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None]


def _fixed(sentence: str) -> str:
    return "".join(part for part, *_ in string.Formatter().parse(sentence))


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = string.Formatter().parse(sentence)
    text = "".join(re.escape(fixed) + ("(.+?)" if name is not None else "") for fixed, name, *_ in parts)
    return re.compile(text, re.IGNORECASE | re.DOTALL)


def _is_data(text: str) -> bool:
    """Numbers with their units, an address, or a file's name."""
    words = set(re.findall(r"[^\W\d_]+", text))
    return words <= UNITS or bool(re.fullmatch(r"https?://\S+|[\w-]+\.\w{2,11}", text))


@cache
def gradio_words(language: str) -> frozenset[str]:
    """What Gradio itself has in that language."""
    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    (file,) = assets.glob(f"{'core' if language == 'en' else language}-????????.js")
    words = frozenset(re.findall(r"\w:`([^`]+)`", file.read_text(encoding="utf-8")))
    assert len(words) > 100
    return words


CRAWL = """() => {
  const found = [];
  const add = (kind, text, node) => {
    text = (text || '').replace(/\\s+/g, ' ').trim();
    if (text) found.push([kind, text, `${node.tagName.toLowerCase()}.${node.className}`]);
  };
  for (const node of document.body.querySelectorAll('*')) {
    if (node.matches('script, style, code, pre, .cm-line, .cm-line *, svg *')) continue;
    if (!node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    for (const name of ['placeholder', 'title', 'aria-label', 'alt', 'aria-valuetext', 'data-label'])
      add(name, node.getAttribute(name), node);
    for (const child of node.childNodes) if (child.nodeType === Node.TEXT_NODE) add('text', child.textContent, node);
    if (node.matches('input[role=combobox]')) add('value', node.value, node);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeStudio]]:
    studio = FakeStudio()
    with page_of(studio, tmp_path_factory.mktemp("runs")) as url:
        yield url, studio


def everywhere(page: Any) -> Iterator[tuple[str, list[list[str]]]]:
    """(tab, what it says) with all folds open, and back on the first."""
    names = tab_names(page)
    for name in names:
        open_tab(page, name)
        page.evaluate("""() => {
          for (const fold of document.querySelectorAll('details')) fold.open = true;
          for (const fold of document.querySelectorAll('button.label-wrap:not(.open)'))
            if (fold.checkVisibility()) fold.click();
        }""")
        page.wait_for_timeout(200)
        page.wait_for_function("!document.querySelector('.pending')")
        yield name, page.evaluate(CRAWL)
    open_tab(page, names[0])


def options(page: Any) -> list[list[str]]:
    """What can be chosen from the lists of the open tab."""
    said = []
    for box in page.locator("input[role=combobox]:visible").all():
        box.click()
        listed = page.locator("ul[role=listbox]")
        listed.wait_for(state="attached")
        texts = listed.locator("li").all_inner_texts()  # none where nothing is kept to choose from
        said += [["option", text.strip(" \n✓"), "li"] for text in texts]
        box.press("Escape")
        listed.wait_for(state="detached")
    return said


def journey(page: Any, studio: FakeStudio, kept: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """(where and when, what the page says) all along."""
    listed = 0
    for tab, said in everywhere(page):
        yield f"{tab}, at the start", said
        choices = options(page)
        listed += len(choices)
        yield f"{tab}, its lists", choices
    assert listed > 50
    upload(page)
    page.locator("#lr-prompt textarea").fill(PROMPT)
    paint(page)
    for tab, said in everywhere(page):
        yield f"{tab}, after a run", said
    kept.write_bytes(saved(page, "#lr-save-picture").read_bytes())
    studio.fail["decode"] = RemoteUnreachableError(
        "Nothing answers at {where}.",
        "Check that the endpoint is running, and its address.",
        url="https://vae.example.org",
        where="https://vae.example.org",
    )
    page.locator("#lr-paint").click()
    page.locator("#lr-finish-button").wait_for()
    yield "after a failure", page.evaluate(CRAWL)
    upload(page, kept)
    page.locator(".toast-title.info").first.wait_for()
    yield "after a restore", page.evaluate(CRAWL)
    page.locator("#lr-tour-start").click()
    page.wait_for_function("document.querySelectorAll('.lr-tour-ways li[data-done]').length === 4")
    for number in range(1, 7):
        yield f"slide {number} of the tour", page.evaluate(CRAWL)
        page.keyboard.press("ArrowRight")


@pytest.mark.parametrize("locale", ["en-US", "de-DE", "fr-FR"])
def test_every_word_is_in_the_visitors_language(
    watched: WatchedPages, served: tuple[str, FakeStudio], locale: str, tmp_path: Path
) -> None:
    url, studio = served
    words = Words(locale[:2])
    page = watched.open(url, locale=locale)
    seen = 0
    foreign: dict[str, str] = {}
    prompts = {PROMPT, str(metadata().recipe["prompt"])}
    for moment, said in journey(page, studio, tmp_path / "kept.png"):
        seen += len(said)
        for kind, text, node in said:
            for prompt in prompts:
                text = text.replace(prompt, PROMPT)
            if not words.knows(text):
                foreign.setdefault(f"{kind} {text!r} of {node}", moment)
    assert seen > 1000
    assert not foreign, "\n".join(f"{place}  ({moment})" for place, moment in foreign.items())

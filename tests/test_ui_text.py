"""Every sentence in every language, with the same gaps to fill."""

from __future__ import annotations

import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.job import VAE_MODES
from ui.languages import LANGUAGES
from ui.text import locale_of, say

EN = LANGUAGES["en"]
SOURCES = list((Path(__file__).parent.parent / "ui").glob("*.py"))


def gaps(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("locale", sorted(set(LANGUAGES) - {"en"}))
def test_a_language_says_everything_and_fills_the_same_gaps(locale: str) -> None:
    assert LANGUAGES[locale].keys() == EN.keys()
    assert {key for key in EN if gaps(EN[key]) != gaps(LANGUAGES[locale][key])} == set()


def test_every_sentence_is_used_and_every_one_used_is_there() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    named = set(re.findall(r"[\"']([a-z0-9_]+)[\"']", code))
    families = tuple(re.findall(r"f[\"']([a-z_]+_)\{", code))
    explained = {f"{key}_text" for key in EN if key.startswith("explain_")}
    assert {
        key for key in EN if key not in named and not key.startswith(families) and key not in explained
    } == set()
    assert set(re.findall(r'(?:T\(|say\(\w+, )"([a-z0-9_]+)"', code)) <= EN.keys()


@pytest.mark.parametrize("mode", VAE_MODES)
def test_every_mode_the_backend_knows_has_its_sentence(mode: str) -> None:
    assert say("en", f"mode_{mode}") and say("en", f"mode_name_{mode}")


@pytest.mark.parametrize(
    ("header", "locale"),
    [("de-AT,de;q=0.9,en;q=0.5", "de"), ("fr", "fr"), ("pt-BR,fr;q=0.4", "fr"), ("ja", "en"), ("", "en")],
)
def test_the_first_language_the_browser_asks_for_that_we_speak(header: str, locale: str) -> None:
    assert locale_of(SimpleNamespace(headers={"accept-language": header})) == locale  # type: ignore[arg-type]

"""Every sentence in every language, with the same gaps to fill."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.job import VAE_MODES
from ui.languages import LANGUAGES
from ui.text import locale_of, say, translated

EN = LANGUAGES["en"]
SOURCES = list((Path(__file__).parents[2] / "ui").glob("*.py"))


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
        key
        for key in EN
        if key not in named and not key.startswith((*families, "said_")) and key not in explained
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


SAID = sorted(key for key in EN if key.startswith("said_"))
BACKEND = (Path(__file__).parents[2] / "backend").rglob("*.py")


def skeleton(parts: list[str | None]) -> str:
    """A sentence with its gaps as {}."""
    return "".join("{}" if part is None else part for part in parts)


@pytest.fixture(scope="module")
def spoken() -> set[str]:
    """Every text in the backend's source, with {} for what is filled in; beginning with a gap or not."""
    found = set()
    ui = Path(__file__).parents[2] / "ui"
    for path in [*BACKEND, ui / "form.py", ui / "runs.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                values = [value.value if isinstance(value, ast.Constant) else None for value in node.values]
                found |= {skeleton(values), skeleton(values[1:]).strip()}
    return found


@pytest.mark.parametrize("key", SAID)
def test_the_phrase_book_quotes_what_the_backend_really_says(key: str, spoken: set[str]) -> None:
    assert re.sub(r"\{\w+\}", "{}", EN[key]) in spoken, EN[key]


@pytest.mark.parametrize("locale", ["de", "fr"])
@pytest.mark.parametrize("key", SAID)
def test_a_phrase_is_found_again_with_its_gaps(key: str, locale: str) -> None:
    values = {name: f"x{number}" for number, name in enumerate(sorted(gaps(EN[key])))}
    values = {name: f" {value}" if f".{{{name}}}" in EN[key] else value for name, value in values.items()}
    said = translated(EN[key].format(**values).strip(), locale)
    assert said == LANGUAGES[locale][key].format(**values).strip()


def test_sentences_one_after_another_and_phrases_inside_phrases() -> None:
    assert translated(
        "Streamed gives the same picture in 40 MB; the whole picture needs about 1.2 GB and 0.9 GB are free. “whole” "
        "was tried first and ran out of memory. Nobody translated this. float16 overflowed, "
        "so it ran again in float32.",
        "de",
    ) == (
        "Gestreift gibt dasselbe Bild in 40 MB; das ganze Bild braucht etwa 1.2 GB, und 0.9 GB sind frei. „ganz“ "
        "wurde zuerst versucht, aber der Speicher reichte nicht. Nobody translated this. float16 lief über, daher noch "
        "einmal in float32."
    )
    there = "There is no VAE at http://a.b/vae. It says: No such page. Check the address."
    assert translated(there, "de").startswith("Unter http://a.b/vae ist kein VAE.")
    assert translated(there, "de").endswith("Er sagt: No such page. Bitte die Adresse prüfen.")
    other = "The endpoint at http://a.b/x serves another model. Its latents have 4 channels, this model's 16."
    assert translated(other, "fr") == (
        "Le serveur http://a.b/x sert un autre modèle. Ses latents ont 4 canaux, ceux de ce modèle 16."
    )
    assert translated("Tiled gives nearly the same picture in 40 % of the memory.", "de").startswith(
        "Gekachelt gibt fast"
    )
    assert translated("anything at all", "de") == translated("anything at all", "xx") == "anything at all"


def test_a_hostile_sentence_costs_no_time() -> None:
    assert translated("; trying again in " * 400, "de")
    assert translated("{where} {0.__class__} {", "fr") == "{where} {0.__class__} {"

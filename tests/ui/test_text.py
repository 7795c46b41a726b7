"""Every sentence in every language, with the same gaps to fill."""

from __future__ import annotations

import re
import string
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.errors import RemoteError
from backend.job import VAE_MODES
from backend.message import Message, join, literal, mode_name
from ui.languages import LANGUAGES
from ui.text import locale_of, say, say_message

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
    gradios = {key for key in EN if key.startswith(("gradio_", "queue."))}  # which its widgets say
    assert {
        key for key in EN if key not in named | explained | gradios and not key.startswith(families)
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


def test_sentences_one_after_another_and_messages_inside_messages() -> None:
    too_big = Message(
        "the whole picture needs about {whole} and {free} are free", whole="1.2 GB", free="0.9 GB"
    )
    reason = join(
        Message("Streamed gives the same picture in {streamed}; {why}.", streamed="40 MB", why=too_big),
        Message("“{mode}” was tried first and ran out of memory.", mode=mode_name("whole")),
        Message("Nobody translated this."),
        Message("{dtype} overflowed, so it ran again in {wider}.", dtype="float16", wider="float32"),
    )
    assert say_message(reason, "de") == (
        "Gestreift gibt dasselbe Bild in 40 MB; das ganze Bild braucht etwa 1.2 GB, und 0.9 GB sind frei. „ganz“ "
        "wurde zuerst versucht, aber der Speicher reichte nicht. Nobody translated this. float16 lief über, daher noch "
        "einmal in float32."
    )
    there = RemoteError(
        join(
            Message("There is no VAE at {where}.", where="http://a.b/vae"),
            Message("It says: {text}", text="No such page."),
        ),
        "Check the address.",
    )
    assert str(there.full_message) == (
        "There is no VAE at http://a.b/vae. It says: No such page. Check the address."
    )
    assert say_message(there.full_message, "de").startswith("Unter http://a.b/vae ist kein VAE.")
    assert say_message(there.full_message, "de").endswith("Er sagt: No such page. Bitte die Adresse prüfen.")
    other = join(
        Message("The endpoint at {where} serves another model.", where="http://a.b/x"),
        Message("Its latents have {theirs} channels, this model's {ours}.", theirs=4, ours=16),
    )
    assert say_message(other, "fr") == (
        "Le serveur http://a.b/x sert un autre modèle. Ses latents ont 4 canaux, ceux de ce modèle 16."
    )
    tiled = Message(
        "{mode} gives {picture} in {share} of the memory.",
        mode=Message("Tiled"),
        picture=Message("nearly the same picture"),
        share="40 %",
    )
    assert say_message(tiled, "de") == "Gekachelt gibt fast dasselbe Bild in 40 % des Speichers."
    unknown = literal("anything at all")
    assert say_message(unknown, "de") == say_message(unknown, "xx") == "anything at all"


def test_a_hostile_text_stays_what_it_is() -> None:
    hostile = "{where} {0.__class__} {"
    assert say_message(Message(hostile), "fr") == say_message(literal(hostile), "fr") == hostile
    assert say_message(Message("There is no VAE at {where}.", where=hostile), "fr") == (
        f"Il n’y a pas de VAE à {hostile}."
    )

"""German and French prompts in the built-in model's words; English ones stay as they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from backend.job import Job
from backend.models import BUILTIN, SD_V1
from backend.prompt_dictionary import ENTRIES
from backend.prompt_words import plain, understood
from training.painter import captions
from training.painter.scenes import choose
from ui.looks import EXAMPLES, LARGE_LOOKS, LOOKS, example_of

TABLES = (
    captions.TERRAIN,
    captions.THINGS,
    captions.TIME,
    captions.WEATHER,
    captions.SEASON,
    captions.STYLE_AFTER,
    captions.STYLE_LANDSCAPE,
)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (
            "Berge mit Schnee und einem Fluss bei Sonnenuntergang, Ölgemälde",
            "mountains with snow and a river at sunset, oil painting",
        ),
        ("verschneite Berge im Herbst", "mountains covered in snow in autumn"),
        ("ein Schloß am Bergsee im Nebel", "mountains with a castle and a lake in the fog"),
        ("ein Boot auf dem Meer", "the sea with a boat"),
        ("un bateau sur la mer au crépuscule", "the sea with a boat at dusk"),
        ("Winterlandschaft", "a landscape in winter"),
        ("GEMAELDE EINES WALDES", "a forest, painting"),
        ("blaue Stunde über der Stadt", "a city in the blue hour"),
        (
            "un château près d’un lac au coucher du soleil, peinture à l’huile",
            "a castle with a lake at sunset, oil painting",
        ),
        ("des arbres dans le brouillard", "trees in the fog"),
        ("foret enneigee la nuit", "a forest covered in snow at night"),
    ],
)
def test_what_is_known_becomes_a_caption(prompt: str, words: str) -> None:
    found = understood(prompt)
    assert found is not None and found.prompt == words and found.unknown == ()


@pytest.mark.parametrize("locale", ["de", "fr"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_understood_in_every_language(locale: str, name: str) -> None:
    found = understood(example_of("builtin", name, locale).prompt)
    assert found is not None and found.language == locale and found.unknown == ()
    if name == "mountains":
        assert found.prompt == example_of("builtin", name).prompt


def test_what_is_not_known_is_told() -> None:
    found = understood("ein Elefant am Strand bei Nacht, Roboter")
    assert found is not None
    assert found.prompt == "a beach at night, Roboter" and found.unknown == ("Elefant",)


def test_a_looks_english_words_may_follow() -> None:
    for look in LOOKS.values():
        found = understood(f"ein Dorf am See, {look}")
        assert found is not None and found.prompt == f"a village with a lake, {look}"


def test_an_english_prompt_is_left_alone_to_the_letter() -> None:
    def of(seed: int) -> str:
        rng = np.random.default_rng(seed)
        return captions.describe(choose(rng), rng)

    english = [
        *LOOKS.values(),
        *LARGE_LOOKS.values(),
        *(example_of("builtin", name).prompt for name in EXAMPLES),
    ]
    english += ["", "a boat", "Winter", "photo", "a village", "a winding road, 8k", "x" * 5000, "東京", "123"]
    for text in [*english, *map(of, range(200))]:
        assert understood(text) is None, text


@pytest.mark.parametrize(("column", "language"), [(2, "de"), (3, "fr")])
def test_every_entry_is_found_by_each_of_its_words(column: int, language: str) -> None:
    frame = {"de": "und bei der {}", "fr": "avec les {}"}[language]
    for entry in ENTRIES:
        for word in entry[column].split(", "):
            found = understood(frame.format(word))
            assert found is not None and (found.prompt, found.language) == (entry[1], language), word
            bare = understood(frame.format(plain(word, language)) if " " not in word else frame.format(word))
            assert bare is not None and bare.prompt == entry[1], word


def test_the_model_has_learned_every_phrase() -> None:
    taught = {phrase for table in TABLES for phrases in table.values() for phrase in phrases}
    taught |= {"a landscape", *captions.PRAISE}
    assert [entry[1] for entry in ENTRIES if entry[1] not in taught] == []


def test_no_prompt_costs_more_than_its_length() -> None:
    """One that does would not come to an end."""
    for part in ("berg", "a ", "ä,", "bergsee ", "z", "wald-", "\u0301"):
        understood(part * (10_000 // len(part)))


def test_only_the_built_in_model_gets_other_words_and_the_recipe_has_both() -> None:
    job = Job(Image.new("RGB", (64, 64)), "Berge bei Nacht", negative_prompt="Regen", seed=1)
    resolved = job.resolve(BUILTIN)
    assert (resolved.model_prompt, resolved.model_negative_prompt) == ("mountains at night", "rain")
    recipe = resolved.recipe()
    assert (recipe["prompt"], recipe["prompt_understood_as"]) == ("Berge bei Nacht", "mountains at night")
    assert recipe["negative_prompt_understood_as"] == "rain"
    other = job.resolve(SD_V1)
    assert other.model_prompt == "Berge bei Nacht" and "prompt_understood_as" not in other.recipe()
    english = dataclasses.replace(job, prompt="mountains", negative_prompt="").resolve(BUILTIN)
    assert not [name for name in english.recipe() if name.endswith("understood_as")]

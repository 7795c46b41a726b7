"""Prompts in German and French for the built-in model, whose English vocabulary is small.

A dictionary of that vocabulary turns what it knows into a caption as the model has learned them: scene, season, hour,
weather, style (`training/painter/captions.py`). An English prompt is left alone, to the letter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from backend.prompt_dictionary import ENTRIES, FILLERS

_WORD = re.compile(r"[^\W\d_]+")
_LONGEST_PHRASE = 4
_MOST_WORDS = 200
"""Of a prompt; the text encoder reads 32 tokens."""
_LONGEST_WORD = 40
"""Letters; a longer one is not taken apart."""
_ENDINGS: dict[str, tuple[str, ...]] = {
    "de": ("e", "n", "s", "en", "er", "es", "em", "ern"),
    "fr": ("s", "x", "e", "es"),
}
_SHORTEST_PART = 3
"""Letters of a part of a German compound."""
_KINDS = ("place", "scene", "season", "hour", "weather", "style", "praise")


@dataclass(frozen=True)
class Understood:
    """A prompt in the words that the model knows."""

    prompt: str
    language: str
    """"de" or "fr"."""
    unknown: tuple[str, ...] = ()
    """Words that the dictionary does not have, in order; they were left out."""


@dataclass(frozen=True)
class _Dictionary:
    language: str
    phrases: Mapping[tuple[str, ...], tuple[str, str]]
    """Words without accents → (kind, English)."""
    fillers: frozenset[str]
    """Articles, prepositions and the like."""

    def word(self, word: str) -> list[tuple[str, str]]:
        """What one word means: itself, without an ending, or the parts of a German compound, the last one first."""
        for ending in ("", *_ENDINGS[self.language]):
            if word.endswith(ending):
                found = self.phrases.get((word.removesuffix(ending) if ending else word,))
                if found:
                    return [found]
        if self.language == "de" and len(word) <= _LONGEST_WORD:
            for cut in range(len(word) - _SHORTEST_PART, _SHORTEST_PART - 1, -1):
                first, last = (self._simple(part) for part in (word[:cut], word[cut:]))
                if first and last:
                    return [last, first]
        return []

    def _simple(self, word: str) -> tuple[str, str] | None:
        stems = (word, *(word.removesuffix(end) for end in _ENDINGS["de"] if word.endswith(end)))
        return next((found for stem in stems if (found := self.phrases.get((stem,)))), None)

    def known(self, word: str) -> bool:
        return word in self.fillers or bool(self.word(word))


def understood(prompt: str) -> Understood | None:
    """`prompt` in the words that the built-in model knows; None if nothing of it is in another language.

    What stands between commas is looked at by itself, so a look's English words may follow German ones.
    """
    parts = [part.strip() for part in prompt.split(",")]
    read = [_understood_part(part) for part in parts]
    languages = [part.language for part in read if part is not None]
    if not languages:
        return None
    said = [part if known is None else known.prompt for part, known in zip(parts, read, strict=True)]
    unknown = tuple(word for part in read if part is not None for word in part.unknown)
    return Understood(", ".join(filter(None, said)), languages[0], unknown)


def _understood_part(part: str) -> Understood | None:
    shown = _WORD.findall(part)[:_MOST_WORDS]
    if not shown:
        return None
    candidates = []
    for language in _ENDINGS:
        dictionary, words = _dictionary(language), [plain(word, language) for word in shown]
        candidates.append((sum(map(dictionary.known, words)), language, dictionary, words))
    count, language, dictionary, words = max(candidates, key=lambda candidate: candidate[0])
    if count <= sum(word.lower() in _english() for word in shown):
        return None
    found, unknown = _read(words, shown, dictionary)
    caption = _caption(found)
    return Understood(caption, language, tuple(unknown)) if caption else None


def _read(
    words: Sequence[str], shown: Sequence[str], dictionary: _Dictionary
) -> tuple[list[tuple[str, str]], list[str]]:
    """(what the words mean, in order; words that mean nothing here, as they were written)."""
    found, unknown, at = [], [], 0
    while at < len(words):
        for length in range(min(_LONGEST_PHRASE, len(words) - at), 1, -1):
            phrase = dictionary.phrases.get(tuple(words[at : at + length]))
            if phrase:
                found.append(phrase)
                at += length
                break
        else:
            if words[at] not in dictionary.fillers:
                meanings = dictionary.word(words[at])
                found += meanings
                unknown += [] if meanings else [shown[at]]
            at += 1
    return found, unknown


def _caption(found: Sequence[tuple[str, str]]) -> str:
    """As the model's captions go, the place first: "mountains with a lake and a castle in winter, oil painting"."""
    said = {kind: list(dict.fromkeys(text for of, text in found if of == kind)) for kind in _KINDS}
    first, *others = [*said["place"], *said["scene"]] or [""]
    scene = f"{first} with {' and '.join(others)}" if others else first
    when = [*said["season"], *said["hour"], *said["weather"]]
    parts = [" ".join(filter(None, (scene, *when))), *said["style"], *said["praise"]]
    return ", ".join(filter(None, parts))


def plain(word: str, language: str) -> str:
    """Lower case without accents; German ones are written out, as people do who have no key for them."""
    word = word.lower()
    if language == "de":
        for letter, written in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
            word = word.replace(letter, written)
    word = word.replace("œ", "oe")
    return "".join(letter for letter in unicodedata.normalize("NFKD", word) if letter.isalpha())


@cache
def _dictionary(language: str) -> _Dictionary:
    column = tuple(_ENDINGS).index(language)
    phrases = {
        tuple(plain(word, language) for word in _WORD.findall(theirs)): (kind, english)
        for kind, english, *texts in ENTRIES
        for theirs in _listed(texts[column])
    }
    return _Dictionary(
        language, phrases, frozenset(plain(word, language) for word in FILLERS[language].split())
    )


def _listed(text: str) -> Iterator[str]:
    yield from filter(None, map(str.strip, text.split(",")))


@cache
def _english() -> frozenset[str]:
    """Words that say that a prompt is English: those of the vocabulary, and little ones."""
    known = {word for _, english, *_ in ENTRIES for word in english.lower().split()}
    return frozenset(known | set(FILLERS["en"].split()))

"""Each sentence of the backend is a constant template with its values, and each language can say it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from backend import errors
from backend.message import Message, join, literal, mode_name
from tests.messages import BACKEND, MACHINERY, PAGE, ROOT, error_classes, gaps, templates_in, templates_of
from ui.languages import MESSAGES
from ui.text import say_message

SOURCES = [path for path in BACKEND if path not in MACHINERY]


def every_template() -> dict[str, str]:
    """Place by English text."""
    found: dict[str, str] = {}
    for path in (*BACKEND, *PAGE):
        for template in templates_of(path)[0]:
            found.setdefault(template.text, template.place)
    return found


TEMPLATES = every_template()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_said_is_a_constant_template_with_its_values(path: Path) -> None:
    assert templates_of(path)[1] == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('UserError(f"No {name}.")', "not a constant template"),
        ('UserError("No " + name)', "not a constant template"),
        ('UserError("No {}.".format(name))', "not a constant template"),
        ('UserError("No %s." % name)', "not a constant template"),
        ('UserError("No.", f"Try {name}.")', "not a constant template"),
        ('UserError("No.", hint=f"Try {name}.")', "not a constant template"),
        ('UserError(sentences.get(3, "No."))', "not a constant template"),
        ("UserError(str(error))", "not a constant template"),
        ('UserError("No." if name else f"No {name}.")', "not a constant template"),
        ('Message(f"No {name}.")', "not a constant template"),
        ("Message(text)", "not a constant template"),
        ('UserError("No {name}.")', "no value for name"),
        ('UserError("No {name}.", "Try {other}.", name=name)', "no value for other"),
        ('Message("No {name}.", nmae=name)', "no value for name"),
        ('[Message("No {name}.")]', "no value for name"),
        ('Message([Message("No {name}.")][0].key, title=name)', "no value for name"),
    ],
)
def test_a_sentence_that_breaks_the_rule_is_found(source: str, problem: str) -> None:
    _, violations = templates_in(source, "example.py", error_classes())
    assert [text.startswith("example.py:1: ") and problem in text for text in violations] == [True]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ('UserError("No {name}.", "Try.", name=name)', ["No {name}.", "Try."]),
        ('UserError("No." if name else "Yes.", hint="Try.")', ["No.", "Yes.", "Try."]),
        ("UserError(error.full_message, literal(str(error)[:200]))", []),
        ('UserError(TABLE.get(3, Message("No.")))', ["No."]),
        ('Message("{first} {second}", first=Message("One."), second=two)', ["{first} {second}", "One."]),
        ('Message([Message("No {name}.")][0].key, name=name)', ["No {name}."]),
        ('Message(tuple(query), {"content-type": "x"}, raw)', []),  # backend.wire has a class of that name
        ('ValueError(f"No {name}.")', []),
    ],
)
def test_a_sentence_that_keeps_the_rule_is_collected(source: str, texts: list[str]) -> None:
    templates, violations = templates_in(source, "example.py", error_classes())
    assert violations == [] and sorted(t.text for t in templates) == sorted(texts)


@pytest.mark.parametrize("locale", sorted(MESSAGES))
def test_every_sentence_is_in_the_table_and_nothing_else(locale: str) -> None:
    table = MESSAGES[locale]
    assert {place: text for text, place in TEMPLATES.items() if text not in table} == {}
    assert sorted(table.keys() - TEMPLATES.keys()) == []


@pytest.mark.parametrize("locale", sorted(MESSAGES))
def test_a_translation_has_the_gaps_of_its_sentence_and_renders(locale: str) -> None:
    for text, said in MESSAGES[locale].items():
        assert gaps(said) == gaps(text), text
        values: dict[str, Any] = dict.fromkeys(gaps(text), 7)
        rendered = say_message(Message(text, **values), locale)
        assert rendered == (said.format_map(values) if values else said)
        assert "{" not in rendered and rendered.strip()


def test_every_language_but_english_has_a_table() -> None:
    from ui.languages import LANGUAGES

    assert MESSAGES.keys() == LANGUAGES.keys() - {"en"}


def test_messages_inside_messages_are_translated_too() -> None:
    retried = Message("You chose it.")
    memory = Message(
        "There was not enough memory to encode this picture in the mode “{mode}”.", mode=mode_name("whole")
    )
    assert str(join(retried, memory)) == (
        "You chose it. There was not enough memory to encode this picture in the mode “whole”."
    )
    assert "„ganz“" in say_message(join(retried, memory), "de")
    assert say_message(literal("NVIDIA {0}"), "de") == "NVIDIA {0}"
    assert say_message(Message("Nobody translated this {name}.", name="{x}"), "fr") == (
        "Nobody translated this {x}."
    )
    assert str(Message("Quoted {brace")) == "Quoted {brace", "no values, so no gaps are looked for"


def test_messages_and_errors_survive_pickling() -> None:
    """A ZeroGPU call runs in another process, and its errors and reports come back pickled."""
    message = Message("{model} overflowed in {dtype}.", model=literal("SDXL"), dtype="float16")
    assert pickle.loads(pickle.dumps(message)) == message
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.__name__ for kind in kinds} >= {"LatentRelayError", "BusyError", "RemoteReplyError"}
    for kind in kinds:
        error = kind(message, "Try {name}.", name="another", retry_after=3)
        error.run_id = "a1b2"
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind and vars(back) == vars(error)
        assert back.message == message and str(back) == str(error) == "SDXL overflowed in float16."
        assert back.hint == "Try another." and back.full_message == error.full_message


def test_busy_is_no_error_of_an_endpoint_alone() -> None:
    """The queue of the page raises it as well."""
    assert errors.BusyError.__bases__ == (errors.LatentRelayError,)
    assert errors.BusyError.code == "busy" and errors.BusyError("No.", retry_after=3).retry_after == 3

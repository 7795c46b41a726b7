"""What the page says about the form while it is filled in: each line, and the settings that it depends on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

from backend import families
from backend.job import MAX_PROMPT
from backend.models import ModelSpec
from backend.prompt_words import understood
from backend.studio import Studio
from ui import remote_status
from ui.crop_preview import crop_preview
from ui.estimate import estimate_line
from ui.form import Form, Values
from ui.text import locale_of, say
from ui.user_endpoints import UserEndpoints
from ui.widgets import quiet

_QUEUED: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": 4,
    "api_visibility": "private",
}


@dataclass(frozen=True)
class FormOutput:
    """HTML that is rendered anew whenever one of the named settings changes.

    Each is an event of its own, so that a slow one keeps no other waiting; of several changes only the last counts.
    """

    render: Callable[[Studio, Values, str], str | Iterator[str]]
    settings: tuple[str, ...]
    """Names of `Values`; the others are not read."""
    options: Mapping[str, Any]


UNDERSTOOD = FormOutput(
    lambda studio, values, locale: understood_words(studio.find_model(values.model), values, locale),
    ("model", "prompt", "negative_prompt"),
    quiet(),
)
STRENGTH = FormOutput(
    lambda studio, values, locale: strength_words(
        studio.find_model(values.model), values.strength or 0.0, int(values.steps or 1), locale
    ),
    ("model", "strength", "steps"),
    quiet(),
)
CROP = FormOutput(crop_preview, ("image", "width", "height", "fit", "model"), _QUEUED)
REMOTE = FormOutput(
    remote_status.remote_status, ("mode", "model", "encode_mode", "decode_mode"), remote_status.EVENT
)
ESTIMATE = FormOutput(
    estimate_line,
    (
        "image",
        "strength",
        "model",
        "mode",
        "steps",
        "guidance",
        "width",
        "height",
        "tile_size",
        "tile_overlap",
        "encode_mode",
        "decode_mode",
        "transfer",
    ),
    _QUEUED,
)


def wire(
    studio: Studio,
    endpoints: UserEndpoints,
    form: Form,
    output: FormOutput,
    shown: gr.HTML,
    also: Sequence[Component] = (),
) -> None:
    """Keep `shown` up to date; a change of one of `also` counts, too."""
    watched = [getattr(form, name) for name in output.settings]

    def values(data: Mapping[Component, Any], request: gr.Request) -> Values:
        return replace(form.read(data), endpoints=endpoints.of(request.session_hash))

    def render(data: Mapping[Component, Any], request: gr.Request) -> str | Iterator[str]:
        return output.render(studio, values(data, request), locale_of(request))

    def render_each(data: Mapping[Component, Any], request: gr.Request) -> Iterator[str]:
        yield from output.render(studio, values(data, request), locale_of(request))

    gr.on(
        [widget.change for widget in (*watched, *also)],
        render_each if inspect.isgeneratorfunction(output.render) else render,
        set(watched),
        shown,
        **{**output.options, "trigger_mode": "always_last"},
    )


def understood_words(spec: ModelSpec, values: Values, locale: str) -> str:
    """A prompt in German or French, in the words that the model knows; empty for one that it gets as it is."""
    if not spec.translates_prompts:
        return ""
    lines = []
    for prompt in (values.prompt, values.negative_prompt):
        found = understood(prompt[:MAX_PROMPT]) if prompt else None
        if found is not None:
            line = escape(say(locale, "understood_as", prompt=found.prompt))
            unknown = escape(say(locale, "understood_not", words=", ".join(found.unknown)))
            lines.append(f"<span>{line}</span>" + (f"<small>{unknown}</small>" if found.unknown else ""))
    return "".join(f'<p class="lr-words" role="status">{line}</p>' for line in lines)


def strength_words(spec: ModelSpec, strength: float, steps: int, locale: str) -> str:
    """The strength in words, and the number of steps it really means."""
    level = sum(strength > limit for limit in (0.0, 0.35, 0.7, 0.85))
    count = families.steps_to_run(spec, steps, strength)
    total = say(locale, "strength_steps", strength=f"{strength:g}", steps=steps, count=count)
    sentence = escape(say(locale, f"strength_{level}"))
    return f'<p class="lr-words"><span>{sentence}</span><small>{escape(total)}</small></p>'

"""Widgets that several tabs share: the before/after viewer, the upload, the lists of choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio_client.utils import is_http_url_like

from backend.job import TRANSFERS, VAE_MODES, vae_modes
from backend.models import MODELS, ModelSpec, find_model
from backend.remote.user_endpoint import UserEndpoint
from ui.form import AS_ABOVE
from ui.text import T, locale_of, say
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints

_TEMPLATE = """<figure class="lr-viewer"><div class="lr-frame" data-state="empty">
<img class="lr-after" alt="" hidden><img class="lr-before" alt="" hidden>
<span class="lr-tag lr-tag-before"></span><span class="lr-tag lr-tag-after"></span>
<span class="lr-handle" aria-hidden="true"></span>
<input type="range" min="0" max="100" step="1" value="50" disabled aria-label="Before and after">
<p class="lr-empty"><b></b><span></span></p>
</div></figure>"""


BY_THE_VAE = {"concurrency_id": "vae", "concurrency_limit": 8}
"""Options of an event that only encodes or decodes: all of them share one queue, first come first served."""


def failure(sentence: str) -> gr.Error:
    """An error for the page to show, to be raised. Gradio would show markup in it as such, and a sentence may quote
    an endpoint's answer or a file; gradio_client gets its errors from `api.py`, as they are."""
    return gr.Error(escape(sentence, quote=False), print_exception=False)


def html(value: str, elem_id: str | None = None) -> gr.HTML:
    """HTML of ours, without Gradio's prose styles."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, elem_id=elem_id)


def intro(key: str, css_class: str = "lr-intro", elem_id: str | None = None) -> gr.HTML:
    """A sentence of the page's own, in the visitor's language."""

    def render(locale: str) -> str:
        return f'<p class="{css_class}">{escape(say(locale, key))}</p>'

    return local(html(render("en"), elem_id=elem_id), render)


def picture_input(**options: Any) -> gr.Image:
    """An upload that hands over the file itself.

    gr.Image would answer an unknown format with a stack trace, and lose the text chunks that restore settings. A
    subclass would be taken for a custom component with files of its own, so this one method is replaced.
    """
    image = gr.Image(type="filepath", image_mode=None, **options)
    opened = image.preprocess

    def path_only(payload: Any) -> Any:
        return payload.path if payload is not None and payload.path else opened(payload)

    image.preprocess = path_only
    return uploads_only(image)


def uploads_only(component: Component) -> Any:
    """The upload itself, closed to web addresses: Gradio would fetch whatever a visitor names there."""
    keep = component.async_move_resource_to_block_cache

    async def keep_file(path: Any) -> str | None:
        if is_http_url_like(str(path)):
            raise gr.Error(
                "Please upload the file; this app fetches nothing from the web.", print_exception=False
            )
        return await keep(path)

    component.async_move_resource_to_block_cache = keep_file
    return component


def mode_choices(
    spec: ModelSpec, own: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> list[tuple[Any, str]]:
    """Every mode this model has, each with its plain sentence, and the visitor's own endpoints for it."""
    modes = [(T(f"mode_{mode}"), mode) for mode in vae_modes(spec)]
    return [*modes, *_own_choices("mode_own", spec, own, locale)]


def _own_choices(
    key: str, spec: ModelSpec, own: Mapping[str, UserEndpoint] | None, locale: str
) -> list[tuple[Any, str]]:
    return [
        (say(locale, key, name=endpoint.name), place)
        for place, endpoint in (own or {}).items()
        if spec.name in endpoint.models
    ]


def mode_name_choices(
    _: ModelSpec | None = None, own: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> list[tuple[Any, str]]:
    """Modes by name, for a picture whose model is known only later; all of the visitor's endpoints are there."""
    modes = [(T(f"mode_name_{mode}"), mode) for mode in VAE_MODES if mode not in ("auto", "tiny")]
    mine = [(say(locale, "mode_name_own", name=one.name), key) for key, one in (own or {}).items()]
    return [*modes, *mine]


def own_mode_choices(
    spec: ModelSpec, own: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> list[tuple[Any, str]]:
    modes = [(T("as_above"), AS_ABOVE), *((T(f"mode_name_{mode}"), mode) for mode in vae_modes(spec))]
    return [*modes, *_own_choices("mode_name_own", spec, own, locale)]


def decode_choices(spec: ModelSpec, own: Mapping[str, UserEndpoint], locale: str) -> list[tuple[Any, str]]:
    """As `mode_choices`, but with all of the visitor's endpoints: the file will say whose latents it holds."""
    mine = [(say(locale, "mode_own", name=endpoint.name), key) for key, endpoint in own.items()]
    return [*mode_choices(spec), *mine]


@dataclass(frozen=True)
class Place:
    """A widget that says where a VAE stage runs; its list changes with the model and the visitor's endpoints."""

    widget: Component
    model: Component
    """Where the model is chosen whose modes these are."""
    choices: Callable[[ModelSpec, Mapping[str, UserEndpoint], str], list[tuple[Any, str]]]

    def update(
        self, data: Mapping[Component, Any], own: Mapping[str, UserEndpoint], locale: str
    ) -> dict[Component, Any]:
        """The list anew; what was chosen stays, if it is still there."""
        choices = self.choices(find_model(data[self.model]), own, locale)
        keys = [key for _, key in choices]
        chosen = data[self.widget]
        return {self.widget: gr.update(choices=choices, value=chosen if chosen in keys else keys[0])}


def follow_places(place: Place, own: UserEndpoints) -> None:
    """Another model may have other modes."""

    def take(data: Mapping[Component, Any], request: gr.Request) -> dict[Component, Any]:
        return place.update(data, own.of(request.session_hash), locale_of(request))

    place.model.input(take, {place.model, place.widget}, [place.widget], **quiet())


def transfer_choices() -> list[tuple[Any, str]]:
    return [(T(f"transfer_{transfer}"), transfer) for transfer in TRANSFERS]


def transfer_input(elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        transfer_choices(),
        value="uint8",
        label=T("transfer"),
        info=T("transfer_info"),
        filterable=False,
        elem_id=elem_id,
    )


def tiles_and_transfer(elem_id: str) -> tuple[gr.Slider, gr.Slider, gr.Dropdown]:
    """A closed fold with tile size, tile overlap and the form that pictures travel in; the id is the latter's."""
    with gr.Accordion(T("tile_sizes"), open=False):
        with gr.Row():
            tile = gr.Slider(64, 1024, 512, step=64, label=T("tile_size"), buttons=[])
            overlap = gr.Slider(0, 256, 128, step=16, label=T("tile_overlap"), buttons=[])
        return tile, overlap, transfer_input(elem_id)


def scheduler_choices(spec: ModelSpec) -> list[tuple[Any, str]]:
    return [(T("scheduler_default") if name == "default" else name, name) for name in spec.schedulers]


def model_choices() -> list[tuple[str, str]]:
    return [(spec.title, spec.name) for spec in MODELS.values() if spec.available]


def quiet() -> dict[str, Any]:
    """Options of an event that only moves things on the page: at once, unseen, and not in the API."""
    return {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def local(component: gr.HTML, render: Callable[[str], Any]) -> gr.HTML:
    """Note that this HTML is written anew in the visitor's language when the page loads."""
    component.in_locale = render  # type: ignore[attr-defined]
    return component


def locals_of(page: gr.Blocks) -> dict[gr.HTML, Callable[[str], Any]]:
    return {
        block: block.in_locale
        for block in page.blocks.values()
        if isinstance(block, gr.HTML) and hasattr(block, "in_locale")
    }


def viewer(elem_id: str, tab: str = "img2img") -> gr.HTML:
    component = gr.HTML(
        shows("en", tab=tab),
        html_template=_TEMPLATE,
        js_on_load=(ASSETS / "viewer.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )
    return local(component, lambda locale: shows(locale, tab=tab))


def shows(
    locale: str,
    *,
    before: str | None = None,
    after: str | None = None,
    running: bool = False,
    prompt: str = "",
    tab: str = "img2img",
) -> dict[str, Any]:
    """A value for the viewer; `before` and `after` are addresses."""
    alt_after = say(locale, "alt_preview") if running else say(locale, "alt_after", prompt=prompt)
    return {
        "before": before,
        "after": after,
        "running": running,
        "alt_before": say(locale, "alt_before"),
        "alt_after": alt_after,
        "label_before": say(locale, "before"),
        "label_after": say(locale, "after"),
        "slide": say(locale, "slide"),
        "empty_title": say(locale, f"empty_title_{tab}"),
        "empty_text": say(locale, f"empty_text_{tab}"),
    }

"""Widgets that several tabs share: the before/after viewer, the upload, the lists of choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio_client.utils import is_http_url_like

from backend.errors import LatentRelayError
from backend.job import TRANSFERS, VAE_MODES, UserEndpoint, vae_modes
from backend.message import Message
from backend.models import BUILTIN, ModelSpec
from backend.studio import Studio
from ui.text import T, locale_of, say, say_message
from ui.theme import ASSETS
from ui.user_endpoints import UserEndpoints

_TEMPLATE = """<figure class="lr-viewer"><div class="lr-frame" data-state="empty">
<img class="lr-after" alt="" hidden><img class="lr-before" alt="" hidden>
<span class="lr-tag lr-tag-before"></span><span class="lr-tag lr-tag-after"></span>
<span class="lr-handle" aria-hidden="true"></span>
<input type="range" min="0" max="100" step="1" value="50" disabled aria-label="Before and after">
<p class="lr-empty"><b></b><span></span></p>
</div></figure>"""


AS_ABOVE = "same"
"""The value of a direction's mode that means the mode chosen for both."""
BY_THE_VAE = {"concurrency_id": "vae", "concurrency_limit": 8}
"""Options of an event that only encodes or decodes: all of them share one queue, first come first served."""


def failure(what: LatentRelayError | Message | str, locale: str = "en") -> gr.Error:
    """Build the error to raise, so that the page shows it: the backend's in `locale`, a finished sentence as it is.

    Gradio would show markup in it as such, and a sentence may quote an endpoint's answer or a file, so it is escaped;
    gradio_client gets its errors from `api.py`, as they are.
    """
    if isinstance(what, LatentRelayError):
        what = what.full_message
    sentence = say_message(what, locale) if isinstance(what, Message) else what
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


def keep_methods(ours: Any, theirs: Any) -> None:
    """Give the component that a session has in the place of `ours` the methods that `ours` was given here."""
    for name in ("preprocess", "async_move_resource_to_block_cache"):
        if name in vars(ours) and theirs is not None and theirs is not ours:
            setattr(theirs, name, vars(ours)[name])


Choices = list[tuple[Any, str]]
"""What a Radio or Dropdown offers: (label, value)."""


def mode_choices(
    spec: ModelSpec, endpoints: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> Choices:
    """Every VAE mode of this model, each with its plain sentence, and the visitor's endpoints that serve it."""
    modes = [(T(f"mode_{mode}"), mode) for mode in vae_modes(spec)]
    return [*modes, *_endpoint_choices("mode_own", endpoints, locale, spec)]


def mode_override_choices(
    spec: ModelSpec, endpoints: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> Choices:
    """For one direction only: as chosen for both, or another mode, by name."""
    modes = [(T("as_above"), AS_ABOVE), *((T(f"mode_name_{mode}"), mode) for mode in vae_modes(spec))]
    return [*modes, *_endpoint_choices("mode_name_own", endpoints, locale, spec)]


def mode_name_choices(
    _: ModelSpec | None = None, endpoints: Mapping[str, UserEndpoint] | None = None, locale: str = "en"
) -> Choices:
    """Modes by name and every endpoint of the visitor's, for latents whose model is known only later."""
    modes = [(T(f"mode_name_{mode}"), mode) for mode in VAE_MODES if mode not in ("auto", "tiny")]
    return [*modes, *_endpoint_choices("mode_name_own", endpoints, locale)]


def _endpoint_choices(
    key: str, endpoints: Mapping[str, UserEndpoint] | None, locale: str, spec: ModelSpec | None = None
) -> Choices:
    """The visitor's endpoints, only those that serve `spec` where one is given."""
    return [
        (say(locale, key, name=endpoint.name), value)
        for value, endpoint in (endpoints or {}).items()
        if spec is None or spec.name in endpoint.models
    ]


@dataclass(frozen=True)
class VaeModeSelect:
    """A widget that says where a VAE stage runs; its choices follow the model and the visitor's endpoints."""

    widget: Component
    model: Component
    """Where the model is chosen whose modes these are."""
    choices: Callable[[ModelSpec, Mapping[str, UserEndpoint], str], Choices]

    def update(
        self,
        studio: Studio,
        data: Mapping[Component, Any],
        endpoints: Mapping[str, UserEndpoint],
        locale: str,
    ) -> dict[Component, Any]:
        """The choices anew; the chosen one stays, if it is still there. `data` holds both widgets' values."""
        choices = self.choices(studio.find_model(data[self.model]), endpoints, locale)
        if data[self.widget] in (value for _, value in choices):
            # No value: by the time this arrives, the visitor may have chosen another.
            return {self.widget: gr.update(choices=choices)}
        return {self.widget: choose_from(choices, data[self.widget])}


def choose_from(choices: Choices, value: object) -> Any:
    """An update that sets the choices and a value that is among them: the first where `value` is not."""
    values = [value for _, value in choices]
    return gr.update(choices=choices, value=value if value in values else values[0])


def follow_model(select: VaeModeSelect, studio: Studio, endpoints: UserEndpoints) -> None:
    """Renew the choices when another model is chosen, which may have other modes."""

    def update(data: Mapping[Component, Any], request: gr.Request) -> dict[Component, Any]:
        return select.update(studio, data, endpoints.of(request.session_hash), locale_of(request))

    select.model.input(update, {select.model, select.widget}, [select.widget], **quiet())


def transfer_input(elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        [(T(f"transfer_{transfer}"), transfer) for transfer in TRANSFERS],
        value="uint8",
        label=T("transfer"),
        info=T("transfer_info"),
        filterable=False,
        elem_id=elem_id,
    )


def tiles_and_transfer(elem_id: str) -> tuple[gr.Slider, gr.Slider, gr.Dropdown]:
    """A closed fold with tile size, tile overlap and the form that pictures travel in, whose id is `elem_id`."""
    with gr.Accordion(T("tile_sizes"), open=False):
        with gr.Row():
            tile = gr.Slider(64, 1024, 512, step=64, label=T("tile_size"), buttons=[])
            overlap = gr.Slider(0, 256, 128, step=16, label=T("tile_overlap"), buttons=[])
        return tile, overlap, transfer_input(elem_id)


def download_buttons(elem_id: str, *kinds: str) -> list[gr.DownloadButton]:
    """A button for each kind of file that comes of a run, grey until there is one."""
    return [
        gr.DownloadButton(
            T(f"download_{kind}"), interactive=False, min_width=120, elem_id=f"{elem_id}-{kind}"
        )
        for kind in kinds
    ]


def scheduler_choices(spec: ModelSpec) -> Choices:
    return [(T("scheduler_default") if name == "default" else name, name) for name in spec.schedulers]


def model_choices(studio: Studio) -> Choices:
    return [
        (T("model_builtin") if spec.name == BUILTIN.name else spec.title, spec.name)
        for spec in studio.models.values()
        if spec.available
    ]


def quiet() -> dict[str, Any]:
    """Options of an event that only changes the page: no queue, no progress bar, not in the API."""
    return {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def local(component: gr.HTML, render: Callable[[str], Any]) -> gr.HTML:
    """Mark this HTML to be rendered again in the visitor's language when the page loads."""
    component.in_locale = render  # type: ignore[attr-defined]
    return component


def locals_of(page: gr.Blocks) -> dict[gr.HTML, Callable[[str], Any]]:
    return {
        block: block.in_locale
        for block in page.blocks.values()
        if isinstance(block, gr.HTML) and hasattr(block, "in_locale")
    }


def empty_viewer(elem_id: str, tab: str) -> gr.HTML:
    """A viewer with that tab's sentences."""
    return viewer(elem_id, lambda locale: shows(locale, tab=tab))


def viewer(elem_id: str, render: Callable[[str], dict[str, Any]]) -> gr.HTML:
    """`render(locale)` gives what it shows at first."""
    component = gr.HTML(
        render("en"),
        html_template=_TEMPLATE,
        js_on_load=(ASSETS / "viewer.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )
    return local(component, render)


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
        "slide_value": say(locale, "slide_value"),
        "empty_title": say(locale, f"empty_title_{tab}"),
        "empty_text": say(locale, f"empty_text_{tab}"),
    }

"""The tab that lists where each model's VAE is served, whether it answers, and how to serve one oneself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import requests
from gradio.components import Component

from backend.errors import LatentRelayError
from backend.job import UserEndpoint
from backend.message import Message
from backend.models import BUILTIN
from backend.remote import net
from backend.remote.user_endpoint import discover, probe
from backend.studio import Studio
from backend.units import seconds
from ui import remote_status
from ui.frame import Changes
from ui.tab import PageContext
from ui.text import T, locale_of, say, say_message
from ui.widgets import VaeModeSelect, html, intro, model_choices, quiet

_TIMEOUT = 4.0
"""Seconds to wait for a sign of life."""
_EVENT: dict[str, Any] = {"show_progress": "minimal", "concurrency_limit": 4, "api_visibility": "private"}

SERVE = """pip install -r requirements.txt
python -m backend.endpoint --vae sd-v1=stabilityai/sd-vae-ft-mse --host 0.0.0.0 --port 7861

# here, with that machine's address:
python app.py --endpoint sd-v1=http://bigger-machine:7861/vae/sd-v1"""

PYTHON = """from gradio_client import Client, handle_file

client = Client("{url}")
picture, latents, report = client.predict(
    handle_file("a.jpg"), "a lake at sunset", api_name="/img2img"
)
print(report["stages"])"""

CURL_IMG2IMG = """path=$(curl -s -F files=@a.jpg "{url}gradio_api/upload" | tr -d '[]"')
id=$(curl -s "{url}gradio_api/call/v2/img2img" -H "Content-Type: application/json" -d '{{
  "image": {{"path": "'"$path"'", "meta": {{"_type": "gradio.FileData"}}}}, "prompt": "a lake at sunset"
}}' | tr -d '{{}}" ' | cut -d: -f2)
curl -sN "{url}gradio_api/call/img2img/$id" """

CURL = """curl -s --data-binary @a.png "{url}vae/builtin/encode" -o latents.bin -D headers.txt"""


@dataclass(frozen=True)
class ListedEndpoint:
    url: str
    direction: str
    models: tuple[Message | str, ...]
    """Titles; models of one family share a VAE and so an endpoint."""


@dataclass(frozen=True)
class Ping:
    """`latency` in seconds is None when nothing answered; `status` is the HTTP status, if there was one."""

    latency: float | None
    status: int | None = None


def endpoints_of(studio: Studio) -> list[ListedEndpoint]:
    """What the owner configured, and the public defaults where they may be chosen; this app's comes first."""
    found: dict[tuple[str, str], list[Message | str]] = {}
    if studio.self_url:
        base = f"{studio.self_url.rstrip('/')}/vae/{BUILTIN.name}"
        for direction in ("encode", "decode"):
            found[f"{base}/{direction}", direction] = [BUILTIN.title_message]
    for spec in studio.models.values():
        configured = studio.settings.configured_endpoints(spec)
        default = studio.settings.default_endpoints(spec)
        for direction in ("encode", "decode"):
            if url := configured.of(direction) or default.of(direction):
                found.setdefault((url, direction), []).append(spec.title_message)
    return [ListedEndpoint(url, direction, tuple(titles)) for (url, direction), titles in found.items()]


def ping(url: str) -> Ping:
    """Whether anything speaks HTTP there, and how long a short question takes. Any status is a sign of life; a
    proxy's 502 to 504 is not, and neither is 404."""
    begin = time.monotonic()
    try:
        reply = requests.get(url, timeout=_TIMEOUT, allow_redirects=False, stream=True)
    except requests.RequestException:
        return Ping(None)
    reply.close()
    alive = reply.status_code != 404 and reply.status_code not in range(502, 505)
    return Ping(time.monotonic() - begin if alive else None, reply.status_code)


def address_of(request: gr.Request) -> str:
    """This page's address as the visitor's browser sees it, with a slash at its end."""
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip() or request.request.url.scheme
    host = headers.get("x-forwarded-host") or headers.get("host", "127.0.0.1:7860")
    return f"{scheme}://{host}/"


# -- tables ----------------------------------------------------------------------------------------------------


def table(
    endpoints: Sequence[ListedEndpoint], pings: Sequence[Ping] | None, locale: str, *, with_state: bool = True
) -> str:
    """`pings`: one for each endpoint, or None before they were asked."""
    if not endpoints:
        return f'<p class="lr-quiet">{escape(say(locale, "endpoints_none"))}</p>'
    columns = ("state", "model", "job", "url") if with_state else ("model", "job", "url")
    names = {name: escape(say(locale, f"endpoint_{name}")) for name in columns}
    rows = []
    for endpoint, answer in zip(endpoints, pings or [None] * len(endpoints), strict=True):
        cells = {
            "state": _state(answer, locale),
            "job": escape(say(locale, f"stage_{endpoint.direction}")),
            "url": f"<code>{escape(net.redact_url(endpoint.url))}</code>",
        }
        title = f'<th scope="row">{escape(_said(endpoint.models, locale))}</th>'
        rows.append(
            "".join(
                title if name == "model" else f'<td data-label="{label}"><span>{cells[name]}</span></td>'
                for name, label in names.items()
            )
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in names.values())
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="lr-scroll" tabindex="0" role="group" aria-label="{escape(say(locale, "tab_endpoints"))}">'
        f'<table class="lr-table lr-figures lr-endpoints"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _state(answer: Ping | None, locale: str) -> str:
    state = "unknown" if answer is None else "down" if answer.latency is None else "up"
    words = say(locale, f"light_{state}")
    if answer and answer.latency is not None:
        words += f" · {seconds(answer.latency)}"
    elif answer and answer.status:
        words += f" · HTTP {answer.status}"
    return f'<i class="lr-light" data-state="{state}"></i>{escape(words)}'


def user_table(studio: Studio, endpoints: Mapping[str, UserEndpoint], locale: str) -> str:
    """The visitor's endpoints; that a token was given is not even said."""
    listed = [
        ListedEndpoint(url, direction, (f"{endpoint.name}: {_titles(studio, endpoint, locale)}",))
        for endpoint in endpoints.values()
        for direction, url in (("encode", endpoint.encode), ("decode", endpoint.decode))
        if url
    ]
    return table(listed, None, locale, with_state=False) if listed else ""


def _titles(studio: Studio, endpoint: UserEndpoint, locale: str) -> str:
    return _said([studio.models[name].title_message for name in endpoint.models], locale)


def _said(models: Sequence[Message | str], locale: str) -> str:
    return ", ".join(say_message(one, locale) if isinstance(one, Message) else one for one in models)


# -- tab -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UserEndpointForm:
    """Where a visitor adds endpoints to this open page, and removes them."""

    context: PageContext
    main_model: Component
    """Where the main tab's model is chosen: of several VAEs at an address, its VAE is taken."""
    address: gr.Textbox
    token: gr.Textbox
    name: gr.Textbox
    model: gr.Dropdown
    test: gr.Button
    verdict: gr.HTML
    listed: gr.HTML
    removal: gr.Row
    which: gr.Dropdown
    remove: gr.Button

    @classmethod
    def build(cls, context: PageContext, main_model: Component) -> UserEndpointForm:
        intro("own_intro", "lr-quiet")
        with gr.Row():
            address = gr.Textbox(
                label=T("endpoints_address"),
                placeholder="https://…/vae/sd-v1",
                max_lines=1,
                scale=3,
                min_width=240,
                elem_id="lr-address",
            )
            token = gr.Textbox(
                label=T("own_token"),
                type="password",
                placeholder=T("own_token_hint"),
                scale=2,
                min_width=200,
                elem_id="lr-token",
                html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
            )
        with gr.Row():
            name = gr.Textbox(
                label=T("own_name"),
                placeholder=T("own_name_hint"),
                max_lines=1,
                min_width=200,
                elem_id="lr-own-name",
            )
            model = gr.Dropdown(
                [(T("own_find_out"), ""), *model_choices(context.studio)],
                value="",
                label=T("own_model"),
                filterable=False,
                min_width=200,
                elem_id="lr-own-model",
            )
        intro("endpoints_test_sends", "lr-quiet")
        test = gr.Button(T("endpoints_test"), variant="primary", elem_id="lr-test")
        verdict = html("", elem_id="lr-verdict")
        listed = html("", elem_id="lr-own-list")
        with gr.Row(visible=False, equal_height=True, elem_id="lr-own-remove") as removal:
            which = gr.Dropdown(
                [], label=T("own_which"), filterable=False, interactive=True, elem_id="lr-own-which"
            )
            remove = gr.Button(T("own_remove"), elem_id="lr-own-forget")
        return cls(
            context, main_model, address, token, name, model, test, verdict, listed, removal, which, remove
        )

    def wire(self, mode_selects: Sequence[VaeModeSelect]) -> None:
        """`mode_selects`: all lists of VAE modes on the page; the visitor's endpoints are among their choices."""

        def add(data: Mapping[Component, Any], request: gr.Request) -> Iterator[Changes]:
            yield from self._add(mode_selects, data, request)

        def remove(data: Mapping[Component, Any], request: gr.Request) -> Changes:
            self.context.endpoints.remove(request.session_hash, data[self.which] or "")
            return {self.verdict: "", **self._shows(mode_selects, data, request)}

        selects = {widget for select in mode_selects for widget in (select.widget, select.model)}
        fields = {self.address, self.token, self.name, self.model}
        shown = (self.verdict, self.address, self.token, self.name, self.listed, self.removal, self.which)
        outputs = [*shown, *(select.widget for select in mode_selects)]
        gr.on(
            [self.test.click, self.address.submit, self.token.submit],
            add,
            {*fields, self.main_model, *selects},
            outputs,
            trigger_mode="once",
            show_progress_on=self.verdict,
            **_EVENT,
        )
        self.remove.click(remove, {self.which, *selects}, outputs, **quiet())

    def _shows(
        self, mode_selects: Sequence[VaeModeSelect], data: Mapping[Component, Any], request: gr.Request
    ) -> Changes:
        """The visitor's endpoints, in the table and in every list of modes."""
        locale, endpoints = locale_of(request), self.context.endpoints.of(request.session_hash)
        choices = [(endpoint.name, key) for key, endpoint in endpoints.items()]
        changes: Changes = {
            self.listed: user_table(self.context.studio, endpoints, locale),
            self.removal: gr.update(visible=bool(endpoints)),
            self.which: gr.update(choices=choices, value=choices[-1][1] if choices else None),
        }
        for select in mode_selects:
            changes |= select.update(self.context.studio, data, endpoints, locale)
        return changes

    def _add(
        self, mode_selects: Sequence[VaeModeSelect], data: Mapping[Component, Any], request: gr.Request
    ) -> Iterator[Changes]:
        """Ask what is served there, try it, and keep it if it may work."""
        studio, locale = self.context.studio, locale_of(request)
        yield {self.verdict: remote_status.shown(None, say(locale, "light_asking"), locale)}
        try:
            endpoint = discover(
                data[self.address] or "",
                data[self.token] or "",
                name=data[self.name] or "",
                models=studio.models,
                model=data[self.model] or None,
                prefer=data[self.main_model],
                public_only=not studio.settings.only_owner_visits,
            )
            main_model = data[self.main_model]
            model = main_model if main_model in endpoint.models else endpoint.models[0]
            tried = probe(endpoint, studio.find_model(model))
        except LatentRelayError as error:
            yield {self.verdict: remote_status.shown("broken", error.full_message, locale)}
            return
        found = tried.preflight
        if tried.endpoint is None:
            yield {self.verdict: remote_status.shown("broken", found.message, locale)}
            return
        self.context.endpoints.add(request.session_hash or "", tried.endpoint)
        both = tried.endpoint.encode and tried.endpoint.decode
        served = "both" if both else "encode" if tried.endpoint.encode else "decode"
        titles = _titles(studio, tried.endpoint, locale)
        added = say(locale, f"own_added_{served}", name=tried.endpoint.name, models=titles)
        yield {
            self.verdict: remote_status.shown(
                found.status, f"{say_message(found.message, locale)} {added}", locale
            ),
            self.address: "",
            self.token: "",
            self.name: "",
            **self._shows(mode_selects, data, request),
        }


@dataclass(frozen=True)
class EndpointsTab:
    context: PageContext
    lights: gr.HTML
    check: gr.Button
    form: UserEndpointForm | None
    """None where only the owner's endpoints are called."""
    python: gr.Code
    img2img: gr.Code
    curl: gr.Code

    @property
    def greeted(self) -> tuple[Component, ...]:
        """What `greet` changes."""
        return (self.lights, self.python, self.img2img, self.curl)

    def greet(self, request: gr.Request) -> Changes:
        """What only the running app knows: the endpoint that it serves, and its address in the snippets."""
        address = address_of(request)
        return {
            self.lights: table(endpoints_of(self.context.studio), None, locale_of(request)),
            self.python: PYTHON.format(url=address),
            self.img2img: CURL_IMG2IMG.format(url=address),
            self.curl: CURL.format(url=address),
        }

    def wire(self, mode_selects: Sequence[VaeModeSelect]) -> None:
        """`mode_selects`: all lists of VAE modes on the page."""
        self.check.click(self._check, None, self.lights, show_progress_on=self.lights, **_EVENT)
        if self.form is not None:
            self.form.wire(mode_selects)

    def _check(self, request: gr.Request) -> str:
        endpoints = endpoints_of(self.context.studio)
        with ThreadPoolExecutor(8) as pool:
            pings = list(pool.map(lambda endpoint: ping(endpoint.url), endpoints))
        return table(endpoints, pings, locale_of(request))


def build(context: PageContext, model: Component) -> EndpointsTab:
    """`model` is where the main tab's model is chosen."""
    intro("endpoints_intro")
    lights = html(table(endpoints_of(context.studio), None, "en"), elem_id="lr-lights")
    check = gr.Button(T("endpoints_check"), elem_id="lr-check")
    form = None
    with gr.Accordion(T("endpoints_own"), open=True, elem_id="lr-own"):
        if context.studio.settings.takes_visitor_endpoints:
            form = UserEndpointForm.build(context, model)
        else:
            intro("endpoints_closed", "lr-quiet", elem_id="lr-own-closed")
    with gr.Accordion(T("endpoints_serve"), open=False):
        gr.Code(SERVE, language="shell", interactive=False, show_label=False, label=T("endpoints_serve"))
    with gr.Accordion(T("endpoints_api"), open=False):
        url = "http://127.0.0.1:7860/"
        python = gr.Code(PYTHON.format(url=url), language="python", interactive=False, label="Python")
        img2img = gr.Code(CURL_IMG2IMG.format(url=url), language="shell", interactive=False, label="curl")
        curl = gr.Code(
            CURL.format(url=url), language="shell", interactive=False, label=T("endpoints_api_vae")
        )
    return EndpointsTab(context, lights, check, form, python, img2img, curl)

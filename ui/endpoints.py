"""The endpoints tab: where each model's VAE is served, whether it answers, and how to serve one oneself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import requests
from gradio.components import Component

from backend.errors import LatentRelayError
from backend.job import UserEndpoint
from backend.models import BUILTIN, MODELS, find_model
from backend.remote import net
from backend.remote.user_endpoint import discover, probe
from backend.studio import Studio
from ui import remote_status
from ui.render import seconds
from ui.text import T, locale_of, say, say_message
from ui.user_endpoints import UserEndpoints
from ui.widgets import VaeModeSelect, html, local, model_choices, quiet
from ui.widgets import intro as paragraph

_PATIENCE = 4.0
"""Seconds to wait for a sign of life."""

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

CURL_PAINT = """path=$(curl -s -F files=@a.jpg "{url}gradio_api/upload" | tr -d '[]"')
id=$(curl -s "{url}gradio_api/call/v2/img2img" -H "Content-Type: application/json" -d '{{
  "image": {{"path": "'"$path"'", "meta": {{"_type": "gradio.FileData"}}}}, "prompt": "a lake at sunset"
}}' | tr -d '{{}}" ' | cut -d: -f2)
curl -sN "{url}gradio_api/call/img2img/$id" """

CURL = """curl -s --data-binary @a.png "{url}vae/builtin/encode" -o latents.bin -D headers.txt"""


@dataclass(frozen=True)
class Endpoint:
    url: str
    direction: str
    models: tuple[str, ...]
    """Titles; models of one family share a VAE and so an endpoint."""


@dataclass(frozen=True)
class Answer:
    """`latency` is None when nothing answered."""

    latency: float | None
    status: int | None = None


def endpoints_of(studio: Studio) -> list[Endpoint]:
    """What the owner configured or the models name; the app's own comes first."""
    found: dict[tuple[str, str], list[str]] = {}
    if studio.self_url:
        base = f"{studio.self_url.rstrip('/')}/vae/{BUILTIN.name}"
        for direction in ("encode", "decode"):
            found[f"{base}/{direction}", direction] = [BUILTIN.title]
    for spec in MODELS.values():
        pair = studio.settings.endpoint_pair(spec)
        for direction, url in (("encode", pair.encode), ("decode", pair.decode)):
            if url:
                found.setdefault((url, direction), []).append(spec.title)
    return [Endpoint(url, direction, tuple(titles)) for (url, direction), titles in found.items()]


def ask(url: str) -> Answer:
    """Whether anything speaks HTTP there, and how long a short question takes. Any status is a sign of life; a
    proxy's 502 to 504 is not, and neither is 404."""
    begin = time.monotonic()
    try:
        reply = requests.get(url, timeout=_PATIENCE, allow_redirects=False, stream=True)
    except requests.RequestException:
        return Answer(None)
    reply.close()
    alive = reply.status_code != 404 and reply.status_code not in range(502, 505)
    return Answer(time.monotonic() - begin if alive else None, reply.status_code)


def table(
    endpoints: list[Endpoint], answers: list[Answer] | None, locale: str, *, with_state: bool = True
) -> str:
    if not endpoints:
        return f'<p class="lr-quiet">{escape(say(locale, "endpoints_none"))}</p>'
    rows = []
    for index, endpoint in enumerate(endpoints):
        answer = answers[index] if answers else None
        state = "unknown" if answer is None else "down" if answer.latency is None else "up"
        told = say(locale, f"light_{state}")
        if answer and answer.latency is not None:
            told += f" · {seconds(answer.latency)}"
        elif answer and answer.status:
            told += f" · HTTP {answer.status}"
        lamp = f'<td><i class="lr-light" data-state="{state}"></i>{escape(told)}</td>' if with_state else ""
        rows.append(
            f"<tr>{lamp}"
            f'<th scope="row">{escape(", ".join(endpoint.models))}</th>'
            f"<td>{escape(say(locale, f'stage_{endpoint.direction}'))}</td>"
            f"<td><code>{escape(net.redact_url(endpoint.url))}</code></td></tr>"
        )
    head = "".join(
        f'<th scope="col">{escape(say(locale, f"endpoint_{c}"))}</th>'
        for c in ("state", "model", "job", "url")
        if with_state or c != "state"
    )
    return (
        f'<div class="lr-scroll" tabindex="0" role="group" aria-label="{escape(say(locale, "tab_endpoints"))}">'
        f'<table class="lr-table lr-endpoints"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{escape(say(locale, "endpoints_intro"))}</p>'


def own_table(own: Mapping[str, UserEndpoint], locale: str) -> str:
    """The visitor's endpoints; that a token was given is not even said."""
    listed = [
        Endpoint(
            url,
            direction,
            (f"{endpoint.name}: {', '.join(MODELS[name].title for name in endpoint.models)}",),
        )
        for endpoint in own.values()
        for direction, url in (("encode", endpoint.encode), ("decode", endpoint.decode))
        if url
    ]
    return table(listed, None, locale, with_state=False) if listed else ""


def address_of(request: gr.Request) -> str:
    """This page's own address as the visitor's browser sees it, with a slash at its end."""
    headers = request.headers
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip() or request.request.url.scheme
    host = headers.get("x-forwarded-host") or headers.get("host", "127.0.0.1:7860")
    return f"{scheme}://{host}/"


@dataclass(frozen=True)
class Tab:
    """What the page needs of this one."""

    wire: Callable[[Sequence[VaeModeSelect]], None]
    greet: Callable[[gr.Request], dict[Component, Any]]
    """What only the running app knows: its own endpoint, and its address in the snippets."""
    greeted: tuple[Component, ...]


def build(studio: Studio, own: UserEndpoints, painter: Component) -> Tab:
    """`painter` is where the main tab's model is chosen: of several VAEs at an address, its own is taken."""
    local(html(intro("en")), intro)
    lights = html(table(endpoints_of(studio), None, "en"), elem_id="lr-lights")
    check = gr.Button(T("endpoints_check"), elem_id="lr-check")
    with gr.Accordion(T("endpoints_own"), open=True, elem_id="lr-own"):
        parts = _own_form(studio) if studio.settings.takes_visitor_endpoints else None
        if parts is None:
            paragraph("endpoints_closed", "lr-quiet", elem_id="lr-own-closed")
    with gr.Accordion(T("endpoints_serve"), open=False):
        gr.Code(SERVE, language="shell", interactive=False, show_label=False, label=T("endpoints_serve"))
    with gr.Accordion(T("endpoints_api"), open=False):
        python = gr.Code(
            PYTHON.format(url="http://127.0.0.1:7860/"), language="python", interactive=False, label="Python"
        )
        paint = gr.Code(
            CURL_PAINT.format(url="http://127.0.0.1:7860/"),
            language="shell",
            interactive=False,
            label="curl",
        )
        curl = gr.Code(
            CURL.format(url="http://127.0.0.1:7860/"),
            language="shell",
            interactive=False,
            label=T("endpoints_api_vae"),
        )

    def look(request: gr.Request) -> str:
        endpoints = endpoints_of(studio)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda endpoint: ask(endpoint.url), endpoints))
        return table(endpoints, answers, locale_of(request))

    def greet(request: gr.Request) -> dict[Component, Any]:
        address = address_of(request)
        return {
            lights: table(endpoints_of(studio), None, locale_of(request)),
            python: PYTHON.format(url=address),
            paint: CURL_PAINT.format(url=address),
            curl: CURL.format(url=address),
        }

    def wire(places: Sequence[VaeModeSelect]) -> None:
        check.click(look, None, lights, show_progress_on=lights, **_EVENT)
        if parts is not None:
            _wire_own(studio, own, painter, parts, places)

    return Tab(wire, greet, (lights, python, paint, curl))


_EVENT: dict[str, Any] = {"show_progress": "minimal", "concurrency_limit": 4, "api_visibility": "private"}


def _own_form(studio: Studio) -> dict[str, Any]:
    paragraph("own_intro", "lr-quiet")
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
            [(T("own_find_out"), ""), *model_choices(studio)],
            value="",
            label=T("own_model"),
            filterable=False,
            min_width=200,
            elem_id="lr-own-model",
        )
    test = gr.Button(T("endpoints_test"), variant="primary", elem_id="lr-test")
    verdict = html("", elem_id="lr-verdict")
    listed = html("", elem_id="lr-own-list")
    with gr.Row(visible=False, equal_height=True, elem_id="lr-own-remove") as removal:
        which = gr.Dropdown(
            [], label=T("own_which"), filterable=False, interactive=True, elem_id="lr-own-which"
        )
        remove = gr.Button(T("own_remove"), elem_id="lr-own-forget")
    return {
        "address": address,
        "token": token,
        "name": name,
        "model": model,
        "test": test,
        "verdict": verdict,
        "listed": listed,
        "removal": removal,
        "which": which,
        "remove": remove,
    }


def _wire_own(
    studio: Studio,
    own: UserEndpoints,
    painter: Component,
    parts: dict[str, Any],
    places: Sequence[VaeModeSelect],
) -> None:
    settings = studio.settings
    widgets = {widget for place in places for widget in (place.widget, place.model)}

    def shown(data: Mapping[Component, Any], request: gr.Request) -> dict[Component, Any]:
        locale, mine = locale_of(request), own.of(request.session_hash)
        choices = [(endpoint.name, key) for key, endpoint in mine.items()]
        changes: dict[Component, Any] = {
            parts["listed"]: own_table(mine, locale),
            parts["removal"]: gr.update(visible=bool(mine)),
            parts["which"]: gr.update(choices=choices, value=choices[-1][1] if choices else None),
        }
        for place in places:
            changes |= place.update(studio, data, mine, locale)
        return changes

    def add(data: Mapping[Component, Any], request: gr.Request) -> Iterator[dict[Component, Any]]:
        """Ask what is served there, try it, and keep it if it may work."""
        locale = locale_of(request)
        yield {parts["verdict"]: remote_status.shown(None, say(locale, "light_asking"), locale)}
        try:
            endpoint = discover(
                data[parts["address"]] or "",
                data[parts["token"]] or "",
                models=studio.models,
                name=data[parts["name"]] or "",
                model=data[parts["model"]] or None,
                prefer=data[painter],
                public_only=not settings.only_owner_visits,
            )
            first = data[painter] if data[painter] in endpoint.models else endpoint.models[0]
            tried = probe(endpoint, find_model(first))
        except LatentRelayError as error:
            yield {parts["verdict"]: remote_status.shown("broken", error.full_message, locale)}
            return
        if tried.endpoint is None:
            yield {parts["verdict"]: remote_status.shown("broken", tried.preflight.message, locale)}
            return
        own.add(request.session_hash or "", tried.endpoint)
        ways = "both" if tried.endpoint.encode and tried.endpoint.decode else None
        ways = ways or ("encode" if tried.endpoint.encode else "decode")
        added = say(
            locale,
            f"own_added_{ways}",
            name=tried.endpoint.name,
            models=", ".join(MODELS[name].title for name in tried.endpoint.models),
        )
        sentence = f"{say_message(tried.preflight.message, locale)} {added}"
        yield {
            parts["verdict"]: remote_status.shown(tried.preflight.status, sentence, locale),
            parts["address"]: "",
            parts["token"]: "",
            parts["name"]: "",
            **shown(data, request),
        }

    def forget(data: Mapping[Component, Any], request: gr.Request) -> dict[Component, Any]:
        own.remove(request.session_hash, data[parts["which"]] or "")
        return {parts["verdict"]: "", **shown(data, request)}

    outputs = [
        *(parts[name] for name in ("verdict", "address", "token", "name", "listed", "removal", "which")),
        *(place.widget for place in places),
    ]
    fields = {parts[name] for name in ("address", "token", "name", "model")}
    gr.on(
        [parts["test"].click, parts["address"].submit, parts["token"].submit],
        add,
        {*fields, painter, *widgets},
        outputs,
        trigger_mode="once",
        show_progress_on=parts["verdict"],
        **_EVENT,
    )
    parts["remove"].click(forget, {parts["which"], *widgets}, outputs, **quiet())

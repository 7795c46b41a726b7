"""The endpoints tab: where each model's VAE is served, whether it answers, and how to serve one oneself."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape

import gradio as gr
import requests

from backend import net
from backend.errors import LatentRelayError
from backend.models import BUILTIN, MODELS
from backend.studio import Studio
from ui.render import seconds
from ui.text import T, locale_of, say
from ui.widgets import failure, html, local

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
    if studio.own_url:
        base = f"{studio.own_url.rstrip('/')}/vae/{BUILTIN.name}"
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


def table(endpoints: list[Endpoint], answers: list[Answer] | None, locale: str) -> str:
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
        rows.append(
            f'<tr><td><i class="lr-light" data-state="{state}"></i>{escape(told)}</td>'
            f'<th scope="row">{escape(", ".join(endpoint.models))}</th>'
            f"<td>{escape(say(locale, f'stage_{endpoint.direction}'))}</td>"
            f"<td><code>{escape(net.bare_url(endpoint.url))}</code></td></tr>"
        )
    head = "".join(
        f'<th scope="col">{escape(say(locale, f"endpoint_{c}"))}</th>'
        for c in ("state", "model", "job", "url")
    )
    return (
        f'<div class="lr-scroll" tabindex="0" role="group" aria-label="{escape(say(locale, "tab_endpoints"))}">'
        f'<table class="lr-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def intro(locale: str) -> str:
    return f'<p class="lr-intro">{escape(say(locale, "endpoints_intro"))}</p>'


def build(studio: Studio) -> Callable[[], None]:
    local(html(intro("en")), intro)
    lights = html(table(endpoints_of(studio), None, "en"), elem_id="lr-lights")
    check = gr.Button(T("endpoints_check"), variant="primary", elem_id="lr-check")
    with gr.Accordion(T("endpoints_own"), open=True), gr.Row(equal_height=True):
        address = gr.Textbox(
            label=T("endpoints_address"),
            placeholder="https://…/vae/sd-v1/decode",
            scale=4,
            elem_id="lr-address",
        )
        test = gr.Button(T("endpoints_test"), scale=1, min_width=120, elem_id="lr-test")
    verdict = html("", elem_id="lr-verdict")
    with gr.Accordion(T("endpoints_serve"), open=False):
        gr.Code(SERVE, language="shell", interactive=False, show_label=False, label=T("endpoints_serve"))
    with gr.Accordion(T("endpoints_api"), open=False):
        python = gr.Code(
            PYTHON.format(url="http://127.0.0.1:7860/"), language="python", interactive=False, label="Python"
        )
        curl = gr.Code(
            CURL.format(url="http://127.0.0.1:7860/"), language="shell", interactive=False, label="curl"
        )

    def look(request: gr.Request) -> tuple[str, str, str]:
        endpoints = endpoints_of(studio)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda endpoint: ask(endpoint.url), endpoints))
        own = f"{(studio.own_url or 'http://127.0.0.1:7860').rstrip('/')}/"
        return table(endpoints, answers, locale_of(request)), PYTHON.format(url=own), CURL.format(url=own)

    def try_out(url: str, request: gr.Request) -> str:
        locale = locale_of(request)
        if studio.settings.is_public:
            # A page for strangers calls nobody's address but the owner's.
            raise failure(say(locale, "endpoints_closed"))
        try:
            net.split_url(url or "")
        except LatentRelayError as error:
            raise failure(error.sentence) from error
        answer = ask(url)
        if answer.latency is None:
            sentence = say(locale, "endpoint_silent")
        else:
            sentence = say(locale, "endpoint_answers", seconds=seconds(answer.latency), status=answer.status)
        state = "down" if answer.latency is None else "up"
        return f'<p class="lr-quiet" role="status"><i class="lr-light" data-state="{state}"></i>{escape(sentence)}</p>'

    def wire() -> None:
        options = {"show_progress": "minimal", "concurrency_limit": 4, "api_visibility": "private"}
        check.click(look, None, [lights, python, curl], show_progress_on=lights, **options)
        test.click(try_out, address, verdict, **options)

    return wire

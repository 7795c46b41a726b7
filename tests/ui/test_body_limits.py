"""Bodies that the page refuses before it parses them, and those that it takes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.serving import serve
from ui import body_limits
from ui.body_limits import MAX_JSON, BodyLimits

JOIN = "/gradio_api/queue/join"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """An app behind the limits that says how many bytes reached it, at any address."""

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    route = Route("/{path:path}", echo, methods=["GET", "POST"])
    with serve(Starlette(routes=[route], middleware=[Middleware(BodyLimits)])) as found:
        yield found


def chunked(url: str, path: str, chunks: int, length: str = "", size: int = 65_536) -> tuple[int, int]:
    """(status, bytes sent until then) of a body in chunks, which may pretend to have a length."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Transfer-Encoding", "chunked")
    if length:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    sent = 0
    try:
        for _ in range(chunks):
            connection.send(b"%x\r\n%s\r\n" % (size, b" " * size))
            sent += size
        connection.send(b"0\r\n\r\n")
    except OSError:
        pass  # hung up on
    try:
        return connection.getresponse().status, sent
    except OSError:
        return 413, sent
    finally:
        connection.close()


@pytest.mark.parametrize("path", [JOIN, "/gradio_api/run/upload", "/gradio_api/cancel", "/login", "/"])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", ""])
def test_a_long_body_is_refused_by_its_announcement(url: str, path: str, kind: str) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("POST", path, headers={"content-length": str(60 * 2**20), "content-type": kind})
    answer = connection.getresponse()  # although nothing of the body was sent
    assert answer.status == 413 and json.loads(answer.read())["code"] == "too_large"
    connection.close()


def test_a_long_body_without_announcement_is_refused_on_the_way(url: str) -> None:
    for length in ("", "0", "5"):
        assert chunked(url, JOIN, 2 * MAX_JSON // 65_536, length)[0] in (400, 413)
    assert chunked(url, JOIN, 4)[0] == 200


@pytest.mark.parametrize("body", [b"[" * 900_000, b"[" * 999 + b"]" * 999, b"[" + b"[]," * 300_000 + b"[]]"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_json_that_costs_more_than_its_length_is_refused(url: str, body: bytes, kind: str | None) -> None:
    reply = requests.post(url + JOIN, data=body, headers={"content-type": kind}, timeout=20)
    assert reply.status_code == 400 and reply.json()["code"] and "JSON" in reply.json()["error"]


def test_what_is_usual_arrives_whole(url: str) -> None:
    drawing = json.dumps({"data": ["data:image/png;base64," + "A" * 1_400_000]}).encode()
    assert requests.post(url + JOIN, data=drawing, timeout=20).text == str(len(drawing))
    assert requests.get(url + "/anything", timeout=20).text == "0"
    assert requests.post(url + "/gradio_api/upload", data=bytes(2**23), timeout=20).text == str(2**23)
    assert requests.post(url + "/gradio_api/vae/builtin/encode", data=bytes(2**23), timeout=20).text == str(
        2**23
    )


def test_uploads_have_limits_of_their_own(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limits, "MAX_UPLOAD", 2**20)
    assert requests.post(url + "/gradio_api/upload", data=bytes(2**20), timeout=20).text == str(2**20)
    assert requests.post(url + "/gradio_api/upload", data=bytes(2**20 + 1), timeout=20).status_code == 413
    assert chunked(url, "/gradio_api/upload", 40)[0] == 413
    monkeypatch.setattr(body_limits, "MAX_UPLOADING", 2**19)
    assert requests.post(url + "/gradio_api/upload", data=bytes(2**20), timeout=20).status_code == 503


def test_uploads_are_counted_as_they_come() -> None:
    seen: list[int] = []

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/upload", echo, methods=["POST"])])
    with serve(BodyLimits(app, seen.append)) as url:
        requests.post(f"{url}/upload", data=bytes(2**20), timeout=20)
    assert sum(seen) == 2**20


@pytest.mark.parametrize(
    "body",
    [
        {"data": [], "fn_index": 9_999, "session_hash": "x"},
        {"data": [1, 2, 3], "fn_index": None, "session_hash": "x"},
        {"data": [], "fn_index": 0, "session_hash": ""},
        {"data": [], "fn_index": -1, "session_hash": "x"},
    ],
)
@pytest.mark.parametrize("route", ["queue/join", "run/predict", "call/decode"])
def test_an_event_that_does_not_exist_is_refused_in_words(app_url: str, route: str, body: object) -> None:
    """Gradio raised what it stumbled over: a 500, a traceback in the log, and the connection was gone."""
    with requests.Session() as session:
        for _ in range(2):
            reply = session.post(f"{app_url}/gradio_api/{route}", json=body, timeout=60)
            assert reply.status_code < 500 or reply.text.startswith('{"error":'), reply.text
        assert session.get(app_url, timeout=60).ok


@pytest.mark.parametrize(
    ("body", "at_most"),
    [
        (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n\r\n' * 5_000, 2_048),
        (b"\r\n--" * 100_000, 2_048),
        (bytes(range(256)) * 2_000, 2**20),
    ],
)
def test_many_small_files_are_parsed_little_at_a_time(body: bytes, at_most: int) -> None:
    """Gradio's parser makes a file of each on the event loop, a thousand of them in one part of the body."""
    taken: list[int] = []

    async def take(request: Request) -> PlainTextResponse:
        taken.extend([len(part) async for part in request.stream()])
        return PlainTextResponse("")

    route = Route("/gradio_api/upload", take, methods=["POST"])
    with serve(Starlette(routes=[route], middleware=[Middleware(BodyLimits)])) as found:
        assert requests.post(f"{found}/gradio_api/upload", data=body, timeout=60).ok
    assert sum(taken) == len(body) and max(taken) <= at_most
    assert at_most == 2_048 or len(taken) < 200, "a picture is not cut up"

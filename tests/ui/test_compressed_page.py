"""The page's own address is compressed, for whoever reads that, and nothing else is."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from backend.settings import Settings
from backend.studio import Studio
from ui.compressed_page import CompressedPage
from ui.page import launch_options
from ui.runs import Runs

WORDS = "words " * 1000


def client(root_path: str = "") -> TestClient:
    def words(_: Request) -> PlainTextResponse:
        return PlainTextResponse(WORDS)

    app = Starlette(routes=[Route("/{path:path}", words)], middleware=[Middleware(CompressedPage)])
    return TestClient(app, root_path=root_path)


def test_the_page_is_compressed_and_nothing_else() -> None:
    for root, path, encoding in (
        ("", "/", "gzip"),
        ("", "/?tab=draw", "gzip"),
        ("/relay", "/relay/", "gzip"),
        ("", "/gradio_api/queue/data", None),
        ("/relay", "/relay/vae/builtin/encode", None),
    ):
        with client(root) as visitor:
            answer = visitor.get(path, headers={"accept-encoding": "gzip, br"})
        assert answer.text == WORDS
        assert answer.headers.get("content-encoding") == encoding, path


def test_who_cannot_read_it_gets_it_as_it_is() -> None:
    with client() as visitor:
        answer = visitor.get("/", headers={"accept-encoding": "identity"})
    assert answer.text == WORDS and "content-encoding" not in answer.headers


def test_the_app_serves_its_page_so(tmp_path: Path) -> None:
    options = launch_options(Runs(tmp_path), Studio(Settings(device="cpu", model="builtin")))
    assert CompressedPage in [middleware.cls for middleware in options["app_kwargs"]["middleware"]]

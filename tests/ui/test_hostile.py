"""Forged files, addresses, names and values, sent to the real app as no page of ours would send them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from backend.errors import BadImageError
from backend.models import MODELS
from benchmarks.visitor import Visitor
from tests.serving import Scripted, scripted
from ui import history
from ui.form import Values, clean
from ui.pictures import save_drawing
from ui.recipe import read_metadata, save_png, settings_in
from ui.runs import Runs
from ui.theme import ASSETS

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ASSETS / "mountains.png")
SECRET = "root:"


@pytest.fixture(scope="module")
def bait() -> Iterator[tuple[Scripted, str]]:
    """A server on this machine that nobody may make the app call."""
    with scripted((200, {"content-type": "image/png"}, Path(EXAMPLE).read_bytes())) as found:
        yield found


USUAL: dict[str, tuple[Any, ...]] = {
    "img2img": (
        None,
        "x",
        0.1,
        "builtin",
        "auto",
        "",
        2,
        1,
        1,
        "default",
        64,
        64,
        "crop",
        128,
        32,
        "same",
        "same",
        "uint8",
    ),
    "encode": (None, "builtin", "auto", 128, 32, "uint8"),
    "decode": (None, "auto", 128, 32, "uint8", ""),
    "round_trip": (None, "builtin", "auto", "auto", 128, 32, "uint8"),
}
"""Good values of every parameter but the file."""


def call(url: str, name: str, *data: Any) -> tuple[bool, str]:
    """(whether it worked, what it said) of one event as the page sends it: the payload exactly as given, the rest as
    usual."""
    config = requests.get(f"{url}/config", timeout=60).json()
    fn_index = next(fn["id"] for fn in config["dependencies"] if fn["api_name"] == name)
    session = secrets.token_hex(8)
    body = {"data": [*data, *USUAL[name][len(data) :]], "fn_index": fn_index, "session_hash": session}
    headers = {"content-type": "application/json"}
    asked = requests.post(f"{url}/gradio_api/queue/join", data=json.dumps(body), headers=headers, timeout=60)
    if asked.status_code != 200:
        return False, asked.text
    query = {"session_hash": session}
    with requests.get(f"{url}/gradio_api/queue/data", params=query, timeout=120, stream=True) as stream:
        for line in stream.iter_lines():
            event = json.loads(line.removeprefix(b"data: ")) if line else {}
            if event.get("msg") == "process_completed":
                output = event["output"]
                return event["success"], json.dumps(output["data"]) if event["success"] else str(
                    output["error"]
                )
    raise AssertionError("the stream ended without an answer")


def upload(url: str, name: str, content: bytes) -> str:
    """The path that Gradio keeps an upload at."""
    reply = requests.post(f"{url}/gradio_api/upload", files={"files": (name, content)}, timeout=60)
    return str(reply.json()[0])


def file_data(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


FORGED = (
    "/etc/passwd",
    "../../../../../../../../etc/passwd",
    str(ROOT / "app.py"),
    "app.py",
    "file:///etc/passwd",
    pytest.param(f"/proc/{os.getpid()}/environ", id="/proc/(these tests)/environ"),
    "/proc/self/environ",
    "",
    "\0",
)


@pytest.mark.parametrize("path", FORGED)
def test_a_forged_file_is_not_opened(app_url: str, path: str) -> None:
    for name in ("img2img", "encode", "round_trip", "decode"):
        for forged in (file_data(path), file_data(path, url=f"{app_url}/gradio_api/file={path}")):
            worked, answer = call(app_url, name, forged)
            assert not worked and SECRET not in answer and "Traceback" not in answer


def test_an_upload_cannot_be_a_bridge_to_another_file(app_url: str) -> None:
    kept = Path(upload(app_url, "a.png", Path(EXAMPLE).read_bytes()))
    for path in (
        kept.parent / "../../../../../etc/passwd",
        kept.parent.parent / ".." / "pictures",
        kept.parent,
    ):
        worked, answer = call(app_url, "encode", file_data(str(path)))
        assert not worked and SECRET not in answer
    climbing = upload(app_url, "../../../../evil.png", b"x")
    assert Path(climbing).resolve().is_relative_to(kept.parent.parent)


def test_the_app_fetches_no_address_for_a_visitor(app_url: str, bait: tuple[Scripted, str]) -> None:
    script, address = bait
    for target in (address, "http://169.254.169.254/latest/meta-data", "https://192.0.2.1/a.png"):
        for name in ("img2img", "encode", "decode"):
            worked, answer = call(app_url, name, file_data(f"{target}/x.png", url=f"{target}/x.png"))
            assert not worked and "fetches nothing from the web" in answer
        for route in ("gradio_api/file=", "gradio_api/proxy=", "file=", "proxy="):
            reply = requests.get(f"{app_url}/{route}{target}", timeout=30, allow_redirects=False)
            assert reply.status_code in (403, 404), route
    assert script.requests == []


def test_no_event_of_the_page_fetches_an_address(app_url: str, bait: tuple[Scripted, str]) -> None:
    """Every event, not the API's alone: the drawing, Compare, bulk encode, latents, and what looks for settings."""
    script, address = bait
    visitor = Visitor.open(f"{app_url}/")
    files = {
        number for number, part in visitor.components.items() if part["type"] in ("image", "file", "gallery")
    }
    events = [fn for fn in visitor.config["dependencies"] if files & set(fn["inputs"])]
    assert len(events) > 12 and {fn["api_name"] for fn in events} >= {"img2img", "decode"}
    forged = file_data(f"{address}/x.png", url=f"{address}/x.png", orig_name="x.png")
    for fn in events:
        page = Visitor(visitor.url, visitor.config)
        data = [
            forged if number in files else visitor.components[number]["props"].get("value")
            for number in fn["inputs"]
        ]
        for wrapped in (forged, [forged], [{"image": forged, "caption": None}]):
            values = [wrapped if value is forged else value for value in data]
            asked = page.post("queue/join", data=values, fn_index=fn["id"], session_hash=page.session)
            assert asked.status_code < 500
            if asked.status_code == 200:
                assert any(message["msg"] == "process_completed" for message in page.messages())
    for drawing in (f"{address}/x.png", f"data:image/png;base64,{address}", f"file:///etc/passwd,{address}"):
        with pytest.raises(BadImageError):
            save_drawing(drawing, ROOT)
    assert script.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "app.py",
        str(ROOT / "app.py"),
        "../app.py",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "/proc/self/environ",
        "%00",
    ],
)
def test_no_file_but_ours_is_served(app_url: str, path: str) -> None:
    for route in ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/", "svelte/"):
        with requests.Session() as session:
            request = requests.Request("GET", app_url).prepare()
            request.url = f"{app_url}/{route}{path}"  # as it is: requests would remove the dots
            reply = session.send(request, timeout=30, allow_redirects=False)
        assert reply.status_code in (400, 403, 404, 500), (route, reply.status_code)
        assert SECRET not in reply.text and "latent-relay" not in reply.text.lower().partition("def main")[2]


def test_the_pictures_folder_cannot_be_listed_or_left(app_url: str) -> None:
    kept = Path(upload(app_url, "a.png", Path(EXAMPLE).read_bytes()))
    pictures = kept.parent.parent.parent / "pictures"
    assert pictures.is_dir()
    for path in (pictures, f"{pictures}/../temp", f"{pictures}/..", f"{pictures}/../../../etc/passwd"):
        assert requests.get(f"{app_url}/gradio_api/file={path}", timeout=30).status_code in (403, 404)


@pytest.mark.parametrize("name", ["evil.html", "evil.svg", "evil.xhtml", "evil.js"])
def test_an_uploaded_page_is_never_shown_as_one(app_url: str, name: str) -> None:
    path = upload(app_url, name, b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    reply = requests.get(f"{app_url}/gradio_api/file={path}", timeout=30)
    if reply.ok:
        assert reply.headers["content-disposition"].startswith("attachment")
        assert reply.headers["content-type"].startswith("application/octet-stream")


def test_an_upload_has_a_limit(app_url: str) -> None:
    config = requests.get(f"{app_url}/config", timeout=30).json()
    assert config["max_file_size"] == 256 * 2**20


def test_a_body_that_costs_more_than_its_length_is_refused_before_it_is_parsed(app_url: str) -> None:
    join = f"{app_url}/gradio_api/queue/join"
    for body, status in ((b"[" + b"[]," * 2_000_000 + b"[]]", 413), (b"[" * 900_000, 400), (b"[" * 99, 400)):
        reply = requests.post(join, data=body, headers={"content-type": "application/json"}, timeout=60)
        assert reply.status_code == status and reply.json()["error"]


NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "builtin/../builtin",
    "..",
    "",
    "stabilityai/x",
    "\0",
    "<b>",
    "é" * 999,
)


def test_a_model_is_a_name_in_a_table_and_never_a_path(app_url: str) -> None:
    image = file_data(upload(app_url, "a.png", Path(EXAMPLE).read_bytes()))
    for name in NAMES:
        worked, answer = call(app_url, "encode", image, name)
        assert not worked and "no model called" in answer, name


BAD_VALUES: tuple[tuple[int, Any], ...] = (
    (2, float("nan")),
    (2, float("inf")),
    (2, "strong"),
    (2, [1]),
    (6, 1e308),
    (6, -5),
    (8, float("nan")),
    (8, 1e30),
    (8, "x"),
    (10, float("inf")),
    (10, 10**9),
    (13, float("nan")),
    (13, -1),
    (14, 1e9),
    (4, "../../etc"),
    (9, "os.system"),
    (12, "<script>"),
    (15, "whole;"),
    (1, "long " * 20_000),
    (1, {"text": "x"}),
    (1, None),
)


def test_values_that_make_no_sense_get_an_answer_and_the_app_lives_on(app_url: str) -> None:
    image = file_data(upload(app_url, "a.png", Path(EXAMPLE).read_bytes()))
    usual = [image, *USUAL["img2img"][1:]]
    for place, value in BAD_VALUES:
        data = list(usual)
        data[place] = value
        worked, answer = call(app_url, "img2img", *data)
        assert answer and "Traceback" not in answer and str(ROOT / "ui") not in answer
        # A text in place of a number is refused by Gradio itself, which tells the log only.
        assert worked or answer != "None" or isinstance(value, str | list), f"{value!r} deserves a sentence"
    assert call(app_url, "img2img", *usual)[0]


UNICODE = (
    "e\u0301" * 2000,
    "\u202eright to left\u202c \u200f",
    "👩‍👩‍👧‍👦🏔️" * 100,
    "\0\x01\x1b[31m\r\n",
    "\ud800 half of a pair",
    "\uffff\ufeff",
    "𝕬𝖇" * 500,
    "Z̸̢̛̰a̷l̴g̶o̵" * 50,
)


@pytest.mark.parametrize("prompt", UNICODE, ids=range(len(UNICODE)))
def test_any_text_is_a_prompt_and_comes_back_in_the_recipe(app_url: str, prompt: str, tmp_path: Path) -> None:
    image = file_data(upload(app_url, "a.png", Path(EXAMPLE).read_bytes()))
    worked, answer = call(app_url, "img2img", image, prompt, 0.1, "builtin", "auto", prompt)
    assert worked, answer
    picture = json.loads(answer)[0]["path"]
    kept = tmp_path / "a.png"
    kept.write_bytes(requests.get(f"{app_url}/gradio_api/file={picture}", timeout=30).content)
    metadata = read_metadata(kept)
    assert metadata is not None
    assert metadata.recipe["prompt"] == prompt.encode("utf-8", "replace").decode()


def test_ids_of_the_history_come_from_a_browser(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    run = runs.start()
    run.write(history.THUMBNAIL, lambda path: path.write_bytes(b""))
    outside = tmp_path / "secret-secret-secret"
    outside.mkdir()
    (outside / history.THUMBNAIL).write_bytes(b"")
    ids: list[Any] = [
        "../secret-secret-secret",
        "/etc",
        "..",
        "\0" * 20,
        "a" * 9999,
        None,
        7,
        {},
        [run.id],
        run.id,
    ]
    assert history.known(runs, ids) == [run.id]
    assert history.known(runs, ["../secret-secret-secret"] * 10_000) == []


@pytest.mark.parametrize("value", [None, [], {}, {"a": 1}, 1e308, -1, "<b>", "../../etc/passwd", "\0", True])
def test_a_recipe_of_any_shape_fills_in_only_what_makes_sense(tmp_path: Path, value: Any) -> None:
    recipe = dict.fromkeys(
        (*Values.__dataclass_fields__, "num_inference_steps", "guidance_scale", "encode_mode"), value
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert (
        "model" not in clean(recipe, MODELS)
        and "scheduler" not in clean(recipe, MODELS)
        and "mode" not in clean(recipe, MODELS)
    )
    path = tmp_path / "b.png"
    save_png(path, Image.new("RGB", (8, 8)), recipe | {"prompt": "x", "negative_prompt": "", "seed": 1}, [])
    restored = settings_in(path, MODELS)
    assert restored is not None and restored.settings["prompt"] == "x"
    assert not {"image", "model"} & restored.settings.keys()


def test_every_upload_and_every_error_of_the_page_goes_the_safe_way() -> None:
    """An upload that is not `uploads_only` would fetch addresses; a bare `gr.Error` would show markup as such."""
    for path in sorted((ROOT / "ui").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        uploads = re.findall(r"(uploads_only\(\s*|\[\*\()?gr\.(?:File|UploadButton)\(", text)
        assert all(uploads), f"{path.name} has an upload that is open to addresses"
        if path.name not in ("api.py", "widgets.py"):
            assert "gr.Error(" not in text, f"{path.name} raises an error whose markup would be shown"

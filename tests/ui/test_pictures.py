"""The addresses of a run's pictures: what they tell, and what else they could be bent to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image
from starlette.applications import Starlette

from tests.serving import serve
from ui.pictures import file_url, picture_route
from ui.runs import Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "pictures")


@pytest.fixture
def url(runs: Runs) -> Iterator[str]:
    runs.folder.mkdir()
    with serve(Starlette(routes=[picture_route(runs.folder)])) as found:
        yield found.rstrip("/")


@pytest.mark.parametrize("name", ["before.png", "latent-relay-4294967295.png", "contact-sheet.png"])
def test_a_picture_is_served_at_an_address_that_tells_no_folder(runs: Runs, url: str, name: str) -> None:
    path = runs.start().write(name, Image.new("RGB", (8, 8), "teal").save)
    address = file_url(path)
    assert str(runs.folder) not in address and "/" not in address[:1]
    reply = requests.get(f"{url}/{address}", timeout=30)
    assert reply.content == path.read_bytes() and reply.headers["content-type"] == "image/png"
    assert str(runs.folder) not in str(reply.headers)


def test_nothing_else_is_served(runs: Runs, url: str, tmp_path: Path) -> None:
    run = runs.start()
    (run.folder / "recipe.json").write_text("{}")
    (run.folder / ".png").write_text("hidden")
    (run.folder / "folder.png").mkdir()
    (runs.folder / "short").mkdir()
    for folder in (runs.folder, runs.folder / "short", tmp_path):
        (folder / "secret.png").write_text("root:")
    for path in (
        f"{run.id}/recipe.json",
        f"{run.id}/.png",
        f"{run.id}/folder.png",
        f"{run.id}/",
        f"{run.id}",
        "",
        "short/secret.png",
        f"{run.id}/../secret.png",
        f"{run.id}/..%2fsecret.png",
        f"{run.id}/%2e%2e%2fsecret.png",
        f"..%2f..%2f..%2f..%2f{tmp_path.name}/secret.png",
        f"{run.id}/secret.png%00",
        f"{run.id}/no-such.png",
        f"{'a' * 5000}/secret.png",
        f"{run.id}/{'a' * 5000}.png",
    ):
        request = requests.Request("GET", url).prepare()
        request.url = f"{url}/runs/{path}"  # as it is: requests would remove the dots
        with requests.Session() as session:
            reply = session.send(request, timeout=30, allow_redirects=False)
        assert reply.status_code in (404, 400), path
        assert "root:" not in reply.text and str(tmp_path) not in reply.text

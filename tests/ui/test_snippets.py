"""The snippets that the endpoints tab offers for copying do what they say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from backend.models import BUILTIN, SD_V1
from backend.settings import Settings
from backend.studio import Studio
from tests.browser.launching import page_of
from tests.fakes import FakeStudio
from ui.endpoints import CURL, CURL_IMG2IMG, PYTHON, SERVE, ListedEndpoint, endpoints_of, ping, table


def test_the_python_snippet(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.jpg")
    with page_of(FakeStudio(), tmp_path / "runs") as url:
        ran = subprocess.run(
            [sys.executable, "-c", PYTHON.format(url=url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert ran.returncode == 0, ran.stderr
    assert "'stage': 'encode'" in ran.stdout


def test_the_curl_snippet(studio: Studio, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    command = CURL.format(url=f"{studio.self_url}/")
    try:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=300)
    except subprocess.CalledProcessError as error:
        if error.returncode == 127:
            pytest.skip("no curl on this machine")
        raise
    assert (tmp_path / "latents.bin").stat().st_size == 4 * 16 * 16 * 4
    assert "200" in (tmp_path / "headers.txt").read_text().splitlines()[0]


def test_the_curl_snippet_for_img2img(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.jpg")
    with page_of(FakeStudio(), tmp_path / "runs") as url:
        ran = subprocess.run(
            ["sh", "-c", CURL_IMG2IMG.format(url=url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert ran.returncode == 0 and "event: complete" in ran.stdout, ran.stdout + ran.stderr
    assert "a lake at sunset" in ran.stdout and "latent-relay-" in ran.stdout


def test_the_serving_commands_name_flags_that_exist() -> None:
    flags = {word for line in SERVE.splitlines() for word in line.split() if word.startswith("--")}
    root = Path(__file__).parents[2]
    helps = "".join(
        subprocess.run(
            [sys.executable, *program, "--help"], cwd=root, capture_output=True, text=True, timeout=300
        ).stdout
        for program in (["-m", "backend.endpoint"], ["app.py"])
    )
    assert {flag for flag in flags if flag not in helps} == set()


def test_the_list_has_the_public_defaults_only_where_they_may_be_chosen() -> None:
    assert SD_V1.decode_endpoint in {endpoint.url for endpoint in endpoints_of(Studio(Settings()))}
    assert endpoints_of(Studio(Settings(on_space=True))) == []


def test_each_address_is_asked_once_and_the_answer_has_a_light(studio: Studio) -> None:
    listed = endpoints_of(studio)
    assert len({(endpoint.url, endpoint.direction) for endpoint in listed}) == len(listed)
    assert listed[0].models == (BUILTIN.title_message,)
    up, down = ping(f"{studio.self_url}/vae/builtin/encode"), ping("http://127.0.0.1:9/")
    assert up.latency is not None and down.latency is None
    html = table([listed[0], ListedEndpoint("http://127.0.0.1:9/", "decode", ("<b>",))], [up, down], "en")
    assert 'data-state="up"' in html and 'data-state="down"' in html and "<b>" not in html

"""The real app: page, API and VAE routes of one process on one port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from diffusers.utils.remote_utils import remote_decode, remote_encode
from gradio_client import Client, handle_file
from PIL import Image

from backend.models import BUILTIN

ROOT = Path(__file__).parent.parent


def test_the_page_answers(app_url: str) -> None:
    page = requests.get(app_url, timeout=60)
    assert page.status_code == 200 and "Latent Relay" in page.text


def test_the_vae_routes_live_next_to_the_page(app_url: str, picture: Image.Image) -> None:
    for prefix in ("", "/gradio_api"):
        listed = requests.get(f"{app_url}{prefix}/vae", timeout=60).json()
        assert "builtin" in [vae["name"] for vae in listed["vaes"]]
        scaling = BUILTIN.latents.scaling_factor
        latents = remote_encode(f"{app_url}{prefix}/vae/builtin/encode", picture, scaling_factor=scaling)
        image = remote_decode(f"{app_url}{prefix}/vae/builtin/decode", latents, scaling_factor=scaling)
        assert image.size == picture.size


def test_an_error_next_to_the_page_is_json_and_the_page_lives_on(app_url: str) -> None:
    with requests.Session() as session:
        bad = session.post(f"{app_url}/vae/builtin/decode", data=b"nonsense", timeout=60)
        assert bad.status_code == 400 and set(bad.json()) == {"error", "code", "hint", "request_id"}
        assert session.post(f"{app_url}/vae/nobody/decode", data=b"", timeout=60).status_code == 404
        assert session.get(app_url, timeout=60).ok


def test_a_picture_and_a_prompt_are_enough_for_the_api(
    app_url: str, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "a.png")
    client = Client(app_url, verbose=False)
    try:
        result = client.predict(handle_file(str(tmp_path / "a.png")), "a lake at sunset", api_name="/img2img")
    finally:
        client.close()
    assert "denoise" in str(result), "the stage reports come with it"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--model", "nobody"], "no model called"), (["--endpoint", "builtin=ftp://x"], "not a web address")],
)
def test_senseless_flags_end_with_a_sentence(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(
        [sys.executable, "app.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr

"""The main job in a real browser, on the real built-in model."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from backend.job import vae_modes
from backend.models import BUILTIN
from tests.browser.doing import open_tab, paint, saved, upload
from tests.browser.launching import WatchedPages
from ui.theme import ASSETS


@pytest.mark.parametrize("mode", vae_modes(BUILTIN))
def test_upload_choose_a_mode_and_see_picture_bar_and_numbers(
    watched: WatchedPages, url: str, mode: str
) -> None:
    page = watched.open(url)
    upload(page)
    page.locator("#lr-prompt textarea").fill("mountains in winter, snow")
    page.locator(f"#lr-mode input[value={mode}]").check()
    paint(page)
    assert page.locator("#lr-panel .lr-bar i").count() == 3
    assert page.locator("#lr-panel .lr-stage[data-state=done]").count() == 3
    table = page.locator("#lr-numbers table").inner_text()
    assert "Encode" in table and "Paint" in table and "Decode" in table
    if mode == "remote":
        assert "kB" in table and "127.0.0.1" in table
    with Image.open(saved(page, "#lr-save-picture")) as image:
        metadata = json.loads(image.text["latent-relay"])  # type: ignore[attr-defined]
    assert metadata["recipe"]["prompt"] == "mountains in winter, snow"
    assert {stage["stage"] for stage in metadata["stages"]} == {"encode", "denoise", "decode"}
    if mode != "auto":
        assert [metadata["stages"][index]["mode"] for index in (0, 2)] == [mode, mode]


def test_no_picture_is_said_kindly(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    page.locator("#lr-paint").click()
    page.get_by_text("Please choose a picture first").first.wait_for()
    page.locator("#lr-paint").click(trial=True)


def test_encode_then_decode_the_file(watched: WatchedPages, url: str) -> None:
    page = watched.open(url)
    open_tab(page, "Encode & Decode")
    page.locator("#lr-encode-picture input[type=file]").set_input_files(ASSETS / "sea.png")
    page.locator("#lr-encode-picture img").first.wait_for()
    page.locator("#lr-encode").click()
    page.locator("#lr-latents-viewer .lr-frame[data-state=before]").wait_for()
    assert "4 channels of 64 × 64" in page.locator("#lr-latents-panel").inner_text()
    latents = saved(page, "#lr-latents-save-latents")
    page.locator("#lr-round-trip").click()
    page.locator("#lr-latents-viewer .lr-frame[data-state=done]").wait_for()
    assert "PSNR" in page.locator("#lr-latents-panel").inner_text()
    page.locator("#lr-latents-file").get_by_text(".safetensors").first.wait_for()
    page.locator("#lr-decode").click()  # what was encoded lies ready
    page.locator("#lr-latents-viewer .lr-frame[data-state=before]").wait_for()
    assert "256 × 256 pixels" in page.locator("#lr-latents-panel").inner_text()
    other = watched.open(url)
    open_tab(other, "Encode & Decode")
    file = latents.with_suffix(".safetensors")
    file.write_bytes(latents.read_bytes())
    other.locator("#lr-latents-file input[type=file]").set_input_files(file)
    other.locator("#lr-latents-file").get_by_text(".safetensors").first.wait_for()
    other.locator("#lr-decode").click()
    other.locator("#lr-latents-viewer .lr-frame[data-state=before]").wait_for()
    assert "256 × 256 pixels" in other.locator("#lr-latents-panel").inner_text()

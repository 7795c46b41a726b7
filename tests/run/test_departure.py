"""What would leave this computer: to which host, and no more bytes than are said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from backend import wire
from backend.job import TRANSFERS, Transfer, VaeOptions
from backend.latents import save_latents
from backend.models import BUILTIN, FLUX, SD_V1, ModelSpec
from backend.request import StageRequest
from backend.run.departure import Departure, most_bytes
from backend.settings import EndpointPair, Settings
from backend.studio import Studio
from ui.leaving import leaving, of_tab

REMOTE, AUTO, WHOLE = VaeOptions("remote"), VaeOptions("auto"), VaeOptions("whole")
URL = "https://name:word@vae.example:8443/{}"
CONFIGURED = Settings(
    device="cpu", endpoints={"builtin": EndpointPair(URL.format("encode"), URL.format("decode"))}
)


def test_the_owners_endpoint_gets_what_is_sent_there_and_of_auto_only_what_does_not_fit() -> None:
    studio = Studio(CONFIGURED)
    away = studio.departure("builtin", "encode", 256, 256, REMOTE)
    assert away is not None and (away.host, away.surely) == ("vae.example:8443", True)
    perhaps = studio.departure("builtin", "decode", 256, 256, AUTO)
    assert perhaps == Departure("decode", "vae.example:8443", 64 * 64 * 4 * 4, surely=False)
    assert studio.departure("builtin", "encode", 256, 256, WHOLE) is None


def test_nothing_leaves_where_no_endpoint_is_known_or_it_is_this_very_app() -> None:
    studio = Studio(Settings(device="cpu"))
    for options in (REMOTE, AUTO):
        assert studio.departure("builtin", "encode", 256, 256, options) is None
    studio.self_url = "http://127.0.0.1:7860/"
    assert studio.departure("builtin", "encode", 256, 256, REMOTE) is None


def test_a_public_default_is_named_like_any_other_host() -> None:
    away = Studio(Settings(device="cpu")).departure("sd-v1", "encode", 512, 512, REMOTE)
    assert away is not None and away.host.endswith(".endpoints.huggingface.cloud")


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_picture_takes_no_more_than_is_said(transfer: Transfer) -> None:
    """Noise, which no format makes smaller."""
    noise = torch.rand(1, 3, 120, 200, generator=torch.Generator().manual_seed(0)) * 2 - 1
    request = wire.pack_encode_request(wire.EncodeRequest(noise, wire.CONFIGURED), transfer)
    said = most_bytes(StageRequest("encode", BUILTIN, 200, 120, VaeOptions("remote", transfer=transfer)))
    assert len(request.body) <= said < 2 * 12 * 120 * 200


@pytest.mark.parametrize("spec", [BUILTIN, SD_V1, FLUX], ids=lambda spec: spec.name)
def test_latents_take_no_more_than_is_said(spec: ModelSpec) -> None:
    shape = spec.latents.channels, 64 // spec.latents.downscale, 96 // spec.latents.downscale
    request = wire.DecodeRequest(torch.rand(1, *shape), wire.CONFIGURED, "uint8")
    said = most_bytes(StageRequest("decode", spec, 96, 64, REMOTE))
    assert len(wire.pack_decode_request(request).body) <= said


def test_the_page_says_it_in_words_and_escaped(tmp_path: Path) -> None:
    surely = Departure("encode", "vae.example", 196_608, surely=True)
    perhaps = Departure("decode", "<b>", 65_536, surely=False)
    html = leaving([surely, None, perhaps], "de")
    assert "Verlässt diesen Rechner: Ihr Bild, höchstens 200 kB, an vae.example." in html
    assert "nur, wenn hier der Speicher nicht reicht: Latents, höchstens 66 kB, an &lt;b&gt;." in html
    assert leaving([None], "en") == ""


def test_a_tab_says_it_for_its_picture_and_its_latents(tmp_path: Path) -> None:
    studio = Studio(CONFIGURED)
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    save_latents(tmp_path / "a.latent", torch.zeros(1, 4, 16, 16), BUILTIN)
    picture, file = str(tmp_path / "a.png"), str(tmp_path / "a.latent")
    both = of_tab(studio, "builtin", REMOTE, picture, file, "en")
    assert "your picture, at most 200 kB, to vae.example:8443, latents, at most 4.1 kB, to vae" in both
    assert "at most 16 kB" in of_tab(studio, "builtin", REMOTE, picture, None, "en", longest=4096)
    assert of_tab(studio, None, REMOTE, picture, None, "en") == ""
    assert of_tab(studio, "builtin", WHOLE, picture, file, "en") == ""
    assert of_tab(studio, "builtin", REMOTE, None, picture, "en") == "", "what is wrong is said on use"


def test_what_leaves_is_said_without_reading_the_latents(tmp_path: Path) -> None:
    """It is asked for at each change of a tab. Numbers that are none show that they are not looked at."""
    save_latents(tmp_path / "a.safetensors", torch.full((1, 4, 16, 16), torch.nan), BUILTIN)
    said = of_tab(Studio(CONFIGURED), "builtin", REMOTE, None, str(tmp_path / "a.safetensors"), "en")
    assert "latents, at most 4.1 kB, to vae.example" in said

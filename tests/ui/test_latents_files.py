"""What the tabs Decode and Compare are given: a latents file, and a remote that a person ticks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.errors import BadLatentsError, UnknownModelError
from backend.job import VaeOptions
from backend.latents import save_latents
from backend.models import BUILTIN
from backend.settings import Settings
from backend.studio import Studio
from tests.fakes import FakeStudio
from ui import compare as compare_tab
from ui import encode_decode
from ui.compare import _source, build
from ui.decode import decode_file, decoded_sentence
from ui.run_view import offer_comfyui
from ui.runs import Runs
from ui.tab import PageContext
from ui.user_endpoints import UserEndpoints

OWN = dataclasses.replace(BUILTIN, name="mine")
OTHER = dataclasses.replace(OWN, latents=dataclasses.replace(OWN.latents, scaling_factor=0.5))


def decode(studio: Studio, file: Path, folder: Path) -> Any:
    """As the tab Decode and the API do it."""
    return decode_file(
        studio, Runs(folder / "runs").start(), str(file), VaeOptions("whole"), "en"
    ).file.latents


def compare(studio: Studio, file: Path, folder: Path) -> Any:
    return _source(studio, None, str(file), "builtin", 0, "en")[0]


@pytest.mark.parametrize("use", [decode, compare])
def test_it_is_read_by_the_owners_model_and_by_no_other_vae(
    tmp_path: Path, use: Callable[[Studio, Path, Path], Any]
) -> None:
    studio = Studio(Settings(device="cpu", local_models=(OWN,)))
    file, latents = tmp_path / "a.safetensors", torch.zeros(1, 4, 16, 16)
    save_latents(file, latents, OWN)
    assert torch.equal(use(studio, file, tmp_path), latents)
    save_latents(file, latents, OTHER)
    with pytest.raises(BadLatentsError, match="of another VAE than the one of"):
        use(studio, file, tmp_path)


def test_compare_says_where_the_remote_is_before_anything_is_sent(tmp_path: Path) -> None:
    studio = FakeStudio()
    context = PageContext(studio, Runs(tmp_path), UserEndpoints())  # type: ignore[arg-type]
    with gr.Blocks():
        tab = build(context)
    request = gr.Request(headers={})
    data: dict[Any, Any] = {tab.modes: ["whole", "remote"], tab.model: "builtin", tab.latents: None}
    data |= {tab.picture: None, tab.side: 0}
    assert "vae.example.org is ready" in list(tab._ask(data, request))[-1]
    assert list(tab._ask({**data, tab.modes: ["whole"]}, request)) == [""]
    save_latents(tmp_path / "a.safetensors", torch.zeros(1, 4, 16, 16), OTHER)
    file = {tab.latents: str(tmp_path / "a.safetensors")}
    assert "does not say which model" in list(tab._ask({**data, **file}, request))[-1]


def comfyui(path: Path, channels: int) -> str:
    """As ComfyUI's SaveLatent writes it."""
    save_file(
        {"latent_tensor": torch.zeros(1, channels, 8, 8), "latent_format_version_0": torch.tensor([])}, path
    )
    return str(path)


@pytest.mark.parametrize("module", [compare_tab, encode_decode])
def test_an_uploaded_file_chooses_its_model_or_asks_for_it(tmp_path: Path, module: Any) -> None:
    context = PageContext(FakeStudio(), Runs(tmp_path), UserEndpoints())  # type: ignore[arg-type]
    with gr.Blocks():
        tab = module.build(context)
    status = tab.frame.status if module is compare_tab else tab.result.status

    def recognise(path: str) -> Any:
        if module is compare_tab:
            return tab._recognise(path, gr.Request(headers={}))
        data = {tab.latents: path, tab.model: "builtin", tab.vae.mode: "auto"}
        return tab._recognise(data, gr.Request(headers={}))

    found = recognise(comfyui(tmp_path / "flux.latent", 16))
    assert found[tab.model] == "flux-schnell" and status not in found
    asked = recognise(comfyui(tmp_path / "some.latent", 4))
    assert asked[tab.model] is None and "choose it under “Whose VAE?”" in asked[status]
    save_latents(tmp_path / "ours.latent", torch.zeros(1, 4, 8, 8), BUILTIN)
    assert recognise(str(tmp_path / "ours.latent"))[tab.model] == "builtin"


def test_foreign_latents_are_decoded_by_the_model_that_was_chosen(tmp_path: Path) -> None:
    studio, run, whole = FakeStudio(), Runs(tmp_path / "runs").start(), VaeOptions("whole")
    file = comfyui(tmp_path / "some.latent", 4)
    with pytest.raises(BadLatentsError, match="does not say which model"):
        decode_file(studio, run, file, whole, "en")  # type: ignore[arg-type]
    done = decode_file(studio, run, file, whole, "en", named="builtin")  # type: ignore[arg-type]
    said = decoded_sentence(done, BUILTIN.title, "de")
    assert done.file.model == "builtin" and "Gelesen als ComfyUIs Latents von Eingebauter" in said
    with pytest.raises(UnknownModelError, match="No model is chosen"):
        studio.find_model(None)  # type: ignore[arg-type]


def test_a_run_keeps_its_latents_for_comfyui_too(tmp_path: Path) -> None:
    run = Runs(tmp_path).start()
    run.keep_latents(torch.ones(1, 4, 8, 8), BUILTIN, "denoise")
    assert run.latents is not None
    offered = offer_comfyui(run.latents)
    assert offered["interactive"] and offered["value"].endswith("denoise.latent")
    assert load_file(offered["value"]).keys() == {"latent_tensor", "latent_format_version_0"}
    assert not offer_comfyui(tmp_path / "missing.safetensors")["interactive"]
    assert not offer_comfyui(None)["interactive"]

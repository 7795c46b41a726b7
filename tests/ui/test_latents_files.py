"""What the tabs Decode and Compare are given: a latents file, and a remote that a person ticks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from backend.errors import BadLatentsError
from backend.job import VaeOptions
from backend.latents import save_latents
from backend.models import BUILTIN
from backend.settings import Settings
from backend.studio import Studio
from tests.fakes import FakeStudio
from ui.compare import _source, build
from ui.decode import decode_file
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
    assert "vae.example.org is ready" in list(tab._ask(data, request))[-1]
    assert list(tab._ask({**data, tab.modes: ["whole"]}, request)) == [""]
    save_latents(tmp_path / "a.safetensors", torch.zeros(1, 4, 16, 16), OTHER)
    file = {tab.latents: str(tmp_path / "a.safetensors")}
    assert "does not say which model" in list(tab._ask({**data, **file}, request))[-1]

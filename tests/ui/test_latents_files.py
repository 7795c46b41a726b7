"""A latents file that is given to the page: in the tabs Decode and Compare, and through the API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import BadLatentsError
from backend.job import VaeOptions
from backend.latents import save_latents
from backend.models import BUILTIN
from backend.settings import Settings
from backend.studio import Studio
from ui.compare import _source
from ui.decode import decode_file
from ui.runs import Runs

OWN = dataclasses.replace(BUILTIN, name="mine")
OTHER = dataclasses.replace(OWN, latents=dataclasses.replace(OWN.latents, scaling_factor=0.5))


def decode(studio: Studio, file: Path, folder: Path) -> Any:
    """As the tab Decode and the API do it."""
    return decode_file(
        studio, Runs(folder / "runs").start(), str(file), VaeOptions("whole"), "en"
    ).file.latents


def compare(studio: Studio, file: Path, folder: Path) -> Any:
    return _source(studio, None, str(file), "builtin", "en")[0]


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

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backend import latents
from backend.errors import BadLatentsError
from backend.job import VaeOptions
from backend.models import BUILTIN, SD_V1, SDXL
from backend.quality import psnr
from backend.studio import Studio


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    z = torch.randn(1, 4, 12, 18).half()
    latents.save_latents(tmp_path / "a.safetensors", z, BUILTIN)
    file = latents.load_latents(tmp_path / "a.safetensors")
    assert torch.equal(file.latents, z) and file.model == "builtin" and file.image_size == (72, 48)


def test_a_file_of_an_older_scaling_is_read_in_the_new_units(tmp_path: Path) -> None:
    old = replace(
        BUILTIN, latents=replace(BUILTIN.latents, scaling_factor=BUILTIN.latents.scaling_factor * 2)
    )
    latents.save_latents(tmp_path / "a.safetensors", torch.full((1, 4, 2, 2), 2.0), old)
    assert torch.allclose(latents.load_latents(tmp_path / "a.safetensors").latents, torch.tensor(1.0))


def bad_files(folder: Path) -> dict[str, Path]:
    good = {"format": "latent-relay/1", "model": "builtin", "scaling_factor": "0.5"}
    tensors = {
        "wrong_name": ({"z": torch.zeros(1, 4, 2, 2)}, good),
        "no_meaning": ({"latents": torch.zeros(1, 4, 2, 2)}, {}),
        "wrong_channels": ({"latents": torch.zeros(1, 5, 2, 2)}, good),
        "not_numbers": ({"latents": torch.full((1, 4, 2, 2), torch.nan)}, good),
        "integers": ({"latents": torch.zeros(1, 4, 2, 2, dtype=torch.uint8)}, good),
        "no_scaling": ({"latents": torch.zeros(1, 4, 2, 2)}, good | {"scaling_factor": "-1"}),
    }
    for name, (tensor, metadata) in tensors.items():
        save_file(tensor, str(folder / name), metadata=metadata)
    (folder / "text").write_text("hello")
    (folder / "empty").write_bytes(b"")
    (folder / "lying_header").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    return {path.name: path for path in folder.iterdir()}


def test_bad_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    files = bad_files(tmp_path)
    assert len(files) == 9
    for path in files.values():
        with pytest.raises(BadLatentsError, match=r"\.$"):
            latents.load_latents(path)


def test_the_preview_looks_like_the_picture(studio: Studio, picture: Image.Image) -> None:
    z, _ = studio.encode(picture, "builtin", VaeOptions("whole"))
    look = latents.preview(z, BUILTIN)
    assert look is not None
    small = picture.resize((12, 8), Image.Resampling.BOX)
    assert psnr(look.resize((12, 8), Image.Resampling.BOX), small) > 24


def test_no_map_no_preview() -> None:
    assert latents.preview(torch.zeros(1, 4, 2, 2), replace(SDXL, preview=())) is None
    assert latents.preview(torch.full((1, 4, 2, 2), torch.nan), SD_V1) is not None, "never breaks a run"


def test_channels_and_statistics() -> None:
    z = torch.stack([torch.full((3, 5), float(c)) for c in range(4)])[None]
    sheet = latents.channels_picture(z)
    assert sheet.width > sheet.height > 0
    facts = latents.statistics(z)
    assert facts["shape"] == [1, 4, 3, 5] and facts["mean"] == 1.5 and facts["channel_means"] == [0, 1, 2, 3]

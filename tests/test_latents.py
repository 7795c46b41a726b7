from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from backend import latents
from backend.errors import BadLatentsError
from backend.job import VaeOptions
from backend.models import BUILTIN, SD_V1, SDXL, ModelSpec
from backend.models.fingerprint import vae_fingerprint
from backend.quality import psnr
from backend.studio import Studio


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    z = torch.randn(1, 4, 12, 18).half()
    latents.save_latents(tmp_path / "a.safetensors", z, BUILTIN)
    file = latents.load_latents(tmp_path / "a.safetensors")
    assert torch.equal(file.latents, z) and file.model == "builtin" and file.image_size == (72, 48)


def saved(path: Path, model: ModelSpec = BUILTIN, count: int = 1, **changes: str | None) -> Path:
    """A file as it is saved for `model`, with some of its metadata changed, or left out for None."""
    latents.save_latents(path, torch.zeros(count, 4, 2, 2), model)
    if changes:
        metadata = {"format": "latent-relay/1", **latents.meaning(model), **changes}
        kept = {name: value for name, value in metadata.items() if value is not None}
        save_file({"latents": torch.zeros(count, 4, 2, 2)}, str(path), metadata=kept)
    return path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"downscale": "8"}, "their downscale is 8, not 4."),
        ({"channels": "16"}, "their channels is 16, not 4."),
        ({"scaling_factor": "0.18215"}, "their scaling_factor is 0.18215, not "),
        ({"shift_factor": "5.0"}, "their shift_factor is 5.0, not null."),
        ({"vae": "sha256:0"}, "its weights are others."),
        ({"vae": "sha256:0", "downscale": None}, "does not say how its numbers are scaled."),
        ({"downscale": None}, "does not say how its numbers are scaled."),
    ],
)
def test_latents_of_another_vae_are_refused(
    tmp_path: Path, changes: dict[str, str | None], sentence: str
) -> None:
    file = saved(tmp_path / "a.safetensors", **changes)
    with pytest.raises(BadLatentsError) as caught:
        latents.load_latents(file)
    assert sentence in str(caught.value) and caught.value.hint


def test_a_file_of_version_1_has_no_fingerprint_and_the_rest_must_agree(tmp_path: Path) -> None:
    assert latents.load_latents(saved(tmp_path / "a.safetensors", vae=None)).model == "builtin"


def test_a_retrained_vae_is_another(tmp_path: Path) -> None:
    """Same name, shape and scaling; only the weights differ."""
    shutil.copytree(BUILTIN.repository, tmp_path / "old")
    model = replace(BUILTIN, repository=str(tmp_path / "old"))
    file = saved(tmp_path / "a.safetensors", model)
    assert latents.load_latents(file).model == "builtin", "the same weights in another folder"
    weights = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(BadLatentsError, match="its weights are others"):
        latents.load_latents(file, {"builtin": model})


def test_the_fingerprint_of_a_checkpoint_is_that_of_its_vae(tmp_path: Path) -> None:
    def fingerprint(vae: float, rest: float) -> str:
        tensors = {"first_stage_model.a": torch.tensor([vae]), "model.b": torch.tensor([rest])}
        save_file(tensors, str(tmp_path / f"{vae}-{rest}.safetensors"))
        return vae_fingerprint(
            replace(SD_V1, repository=str(tmp_path / f"{vae}-{rest}.safetensors"), vae_repository=None)
        )

    assert fingerprint(1, 1) == fingerprint(1, 2) != fingerprint(2, 2)


def test_the_fingerprint_of_a_hub_model_names_repository_and_revision() -> None:
    assert vae_fingerprint(SD_V1) == "stabilityai/sd-vae-ft-mse@main"
    assert vae_fingerprint(replace(SDXL, vae_repository=None, revision="v2")) == f"{SDXL.repository}@v2"


def test_the_fingerprint_of_a_hub_model_names_the_commit_that_is_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else latents of another commit of the same branch would pass for this one's."""
    monkeypatch.setattr("backend.models.revisions.pinned", lambda: {"stabilityai/sd-vae-ft-mse": "c0ffee"})
    assert vae_fingerprint(SD_V1) == "stabilityai/sd-vae-ft-mse@c0ffee"


def test_several_pictures_in_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadLatentsError, match="holds 3 pictures"):
        latents.load_latents(saved(tmp_path / "a.safetensors", count=3))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_latents_of_few_bits_can_be_read(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    latents.save_latents(path, torch.full((1, 4, 2, 2), 0.5).to(dtype), BUILTIN)
    assert latents.load_latents(path).latents.float().eq(0.5).all()


def bad_files(folder: Path) -> dict[str, Path]:
    good = {"format": "latent-relay/1", **latents.meaning(BUILTIN)}
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


def test_the_header_says_whose_they_are_and_how_large_without_a_look_at_the_numbers(tmp_path: Path) -> None:
    header = latents.read_header(bad_files(tmp_path)["not_numbers"])
    assert (header.model, header.shape, header.image_size) == (BUILTIN, (1, 4, 2, 2), (8, 8))
    for name in ("wrong_name", "no_meaning", "wrong_channels", "no_scaling", "text", "empty", "lying_header"):
        with pytest.raises(BadLatentsError):
            latents.read_header(tmp_path / name)


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

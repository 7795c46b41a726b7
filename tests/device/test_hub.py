"""Which files of a repository are read, what lies on this computer, and how large a model is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backend.device import hub
from backend.device.hub import HubFiles, Part, choose, files_of, is_complete, weight_bytes
from backend.models import (
    BUILTIN,
    FLUX,
    MODELS,
    SD_V1,
    SD_V1_LCM,
    SD_V2,
    SDXL,
    SDXL_TURBO,
    ModelSpec,
    revisions,
)
from backend.run.model_downloads import PARTS
from tests.hub_listings import LISTINGS
from tests.hubbing import COMMIT, Hub, hub_here, serve

ROOT = Path(__file__).parents[2]
FROM_THE_HUB = [spec for spec in MODELS.values() if not spec.is_local]


def listed(files: HubFiles) -> dict[str, int]:
    return {name: size or 0 for name, size in LISTINGS[files.repository].items()}


def chosen(spec: ModelSpec, part: Part) -> list[str]:
    files = files_of(spec, part)
    return choose(listed(files), files.variant, files.subfolder)


@pytest.mark.parametrize("spec", FROM_THE_HUB, ids=lambda spec: spec.name)
def test_of_each_repository_only_files_that_are_read_are_fetched(spec: ModelSpec) -> None:
    """One form of each network's weights, no single-file copies, nothing for other programs."""
    parts: list[Part] = ["denoiser", "VAE", *(["tiny VAE"] if spec.tiny_vae else [])]  # type: ignore[list-item]
    for part in parts:
        names = chosen(spec, part)
        weights = [name for name in names if name.endswith(".safetensors")]
        assert weights and all(name.endswith((".json", ".txt", ".model", ".safetensors")) for name in names)
        networks = [name for name in weights if "-of-" not in name]
        assert len({name.rpartition("/")[0] for name in networks}) == len(networks), "one for each folder"
        assert not [name for name in names if name.startswith(("vae_", "safety", "feature", "images"))]
        assert all(name.startswith("vae/") == (part == "VAE") for name in names if "/" in name)
        if part != "denoiser":
            assert [Path(name).name for name in names] == ["config.json", Path(weights[0]).name]


def test_the_vae_of_sdxl_comes_without_its_copies_for_other_programs() -> None:
    assert chosen(SDXL, "VAE") == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_the_variant_is_preferred_and_split_weights_are_whole() -> None:
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in chosen(SD_V1, "denoiser")
    assert "unet/diffusion_pytorch_model.safetensors" in chosen(SD_V1_LCM, "denoiser")
    flux = chosen(FLUX, "denoiser")
    assert len([name for name in flux if name.startswith("transformer/")]) == 5, "config, index, three pieces"


@pytest.mark.parametrize(
    ("spec", "gigabytes"),
    [(SD_V1, 2.3), (SD_V1_LCM, 4.27), (SD_V2, 2.58), (SDXL, 7.1), (SDXL_TURBO, 7.1), (FLUX, 33.7)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_bytes_of_a_model_s_weights(spec: ModelSpec, gigabytes: float) -> None:
    sizes = weight_bytes(spec, PARTS, listed)
    assert sizes is not None and sum(sizes.values()) / 1e9 == pytest.approx(gigabytes, rel=0.01)
    denoiser = "transformer" if spec is FLUX else "unet"
    assert max(sizes, key=lambda name: sizes[name]) == denoiser and sizes["vae"] < sizes[denoiser]


def test_the_bytes_are_known_here_only_of_what_is_here(tmp_path: Path) -> None:
    with hub_here(Hub({}), tmp_path):
        assert weight_bytes(SD_V1, PARTS) is None
        assert weight_bytes(SD_V1, PARTS, hub.hub_listing) is None, "not on this hub"
    assert weight_bytes(SD_V1, PARTS, hub.hub_listing) is None, "the hub is switched off"
    sizes = weight_bytes(BUILTIN, PARTS)
    assert sizes is not None and set(sizes) == {"text_encoder", "unet", "vae"}
    assert sum(sizes.values()) == sum(
        path.stat().st_size for path in Path(BUILTIN.repository).rglob("*.safetensors")
    )
    single = tmp_path / "mine.safetensors"
    single.write_bytes(bytes(1000))
    mine = replace(SD_V1, repository=str(single), vae_repository=None)
    assert weight_bytes(mine, PARTS) == {"checkpoint": 1000}


def test_the_bytes_come_from_the_hub_s_listing(tmp_path: Path) -> None:
    unet = {"unet/config.json": b"{}", "unet/diffusion_pytorch_model.fp16.safetensors": bytes(700)}
    served = Hub(
        {
            SD_V1.repository: unet,
            str(SD_V1.vae_repository): {"diffusion_pytorch_model.safetensors": bytes(300)},
        }
    )
    with hub_here(served, tmp_path):
        assert weight_bytes(SD_V1, PARTS, hub.hub_listing) == {"unet": 700, "vae": 300}
        assert weight_bytes(SD_V2, PARTS, hub.hub_listing) is None, "part of it is unknown"


def in_the_cache(home: Path, repository: str, names: dict[str, str]) -> None:
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for name, text in names.items():
        path = place / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


INDEX = json.dumps(
    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
)
PIPELINE = {
    "model_index.json": json.dumps(
        {
            "_class_name": "FluxPipeline",
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
    ),
    "scheduler/scheduler_config.json": "{}",
    "text_encoder/config.json": "{}",
    "text_encoder/model.safetensors.index.json": INDEX,
    "text_encoder/model-00001-of-00002.safetensors": "",
    "text_encoder/model-00002-of-00002.safetensors": "",
    "tokenizer/merges.txt": "",
}
MINE = HubFiles("someone/painter", "main", None, "fp16")


def test_a_complete_cache_is_known_for_one_whoever_filled_it(tmp_path: Path) -> None:
    with hub_here(Hub({}), tmp_path):
        assert not is_complete(MINE)
        in_the_cache(tmp_path, MINE.repository, PIPELINE)
        assert is_complete(MINE)
        assert not is_complete(replace(MINE, subfolder="vae")), "the VAE is another download"
        assert not is_complete(replace(MINE, revision="b" * 40))


@pytest.mark.parametrize("name", PIPELINE)
def test_a_cache_that_misses_a_file_is_not_complete(name: str, tmp_path: Path) -> None:
    with hub_here(Hub({}), tmp_path):
        in_the_cache(tmp_path, MINE.repository, {n: text for n, text in PIPELINE.items() if n != name})
        whole = (
            name == "text_encoder/model.safetensors.index.json"
        )  # then the pieces tell nothing of each other
        assert is_complete(MINE) == whole
        (
            tmp_path / "hub" / "models--someone--painter" / "snapshots" / COMMIT / "model_index.json"
        ).write_text("[")
        assert not is_complete(MINE), "damaged"


def test_choosing_leaves_other_folders_and_formats() -> None:
    names = [
        "README.txt",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
    ]
    names += ["vae/diffusion_pytorch_model.safetensors", "vae/old/diffusion_pytorch_model.safetensors"]
    assert choose(names, None, "") == ["README.txt", "config.json", "diffusion_pytorch_model.safetensors"]
    assert choose(names, "fp16", "vae") == ["vae/diffusion_pytorch_model.safetensors"]


def test_split_weights_come_with_their_index() -> None:
    stem = "transformer/diffusion_pytorch_model"
    names = [f"{stem}.safetensors.index{v}.json" for v in ("", ".fp16")]
    names += [f"{stem}{v}-0000{n}-of-00002.safetensors" for v in ("", ".fp16") for n in (1, 2)]
    assert choose(names, "fp16", None) == sorted(n for n in names if "fp16" in n)
    assert choose(names, None, None) == sorted(n for n in names if "fp16" not in n)


def test_pinning_writes_a_lock_file_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repositories = {r for s in FROM_THE_HUB for r in (s.repository, s.vae_repository, s.tiny_vae)}
    server = Hub({str(name): {} for name in repositories if name})
    lock = tmp_path / "revisions.json"
    with serve(server) as url:
        code = "from backend.device import hub; from backend.models import __main__ as models; import pathlib, sys; "
        code += "hub.pin.__defaults__ = (pathlib.Path(sys.argv[1]),); sys.exit(models.main(['--pin']))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(lock)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(lock.read_text())[SD_V1.repository] == COMMIT
    monkeypatch.setattr(revisions, "LOCK", lock)
    revisions.pinned.cache_clear()
    try:
        assert hub.revision_of(SD_V1, SD_V1.repository) == COMMIT
        assert hub.revision_of(replace(SD_V1, revision="v2"), SD_V1.repository) == "v2"
        assert hub.revision_of(SD_V1, "someone/else") == "main"
    finally:
        revisions.pinned.cache_clear()

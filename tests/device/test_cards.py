"""Which cards can be used, in which dtype, and what is given back: decided by what torch says of a pretended one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.device import availability
from backend.device.availability import cuda_problem, default_model, pick_device
from backend.device.measure import empty_device_cache
from backend.device.precision import next_wider_dtype, pick_dtype
from backend.doctor.machine import card
from backend.errors import BadSettingError
from backend.models import BUILTIN
from backend.settings import Settings
from tests.card_figures import CardFigures, CardLoader

CARD = torch.device("cuda", 0)
GTX_1080 = CardFigures("NVIDIA GeForce GTX 1080", (6, 1))


@pytest.fixture(autouse=True)
def ask_anew() -> Iterator[None]:
    cuda_problem.cache_clear()
    yield
    cuda_problem.cache_clear()


def no_kernel(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


@pytest.fixture
def old_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that torch finds and has no kernels for."""
    GTX_1080.pretend(monkeypatch)
    monkeypatch.setattr(torch, "ones", no_kernel)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")


@pytest.mark.usefixtures("old_card")
def test_a_card_without_kernels_is_not_taken() -> None:
    assert pick_device("auto").type == "cpu"
    spec, reason = default_model(Settings(), lambda _: False)
    assert spec is BUILTIN
    assert "GTX 1080 is too old" in str(reason) and "RTX 20xx" in str(reason) and "processor" in str(reason)


@pytest.mark.usefixtures("old_card")
def test_a_card_without_kernels_that_was_asked_for_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # memory can be had on it
    with pytest.raises(BadSettingError, match="GTX 1080 is too old"):
        pick_device("cuda")


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch finds no card then; the driver's own tool does."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3060, 550.120'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert pick_device("auto").type == "cpu"
    sentence = str(default_model(Settings(), lambda _: False)[1])
    assert (
        "driver 550.120 of the NVIDIA GeForce RTX 3060 is too old" in sentence and "580 or newer" in sentence
    )
    with pytest.raises(BadSettingError, match="550"):
        pick_device("cuda")
    (finding,) = card(Settings())
    assert finding.status == "problem" and "580 or newer" in str(finding.message)


@pytest.mark.parametrize(
    ("found", "cuda", "said"),
    [
        (None, "13.0", None),
        (("RTX 3060", "580.65"), None, "without CUDA"),
        (("RTX 3060", "580.65"), "13.0", "cannot use it"),
        (("RTX 3060", "528.02"), "12.8", "cannot use it"),
        (("RTX 3060", "520.61"), "12.8", "525 or newer"),
        (("RTX 3060", "N/A"), "13.0", "cannot use it"),
    ],
)
def test_why_torch_finds_no_card(found: tuple[str, str] | None, cuda: str | None, said: str | None) -> None:
    problem = availability._no_cuda(found, cuda)
    assert (problem is None) if said is None else (said in str(problem))


@pytest.mark.parametrize(("capability", "wider"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_turing_has_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wider: torch.dtype
) -> None:
    CardFigures(capability=capability).pretend(monkeypatch)
    assert next_wider_dtype(torch.float16, CARD) == wider
    assert pick_dtype("bfloat16", CARD)[0] == wider
    assert pick_dtype("float16", CARD)[0] == torch.float16


@pytest.mark.parametrize(
    ("said", "dtype"), [(True, torch.bfloat16), (False, torch.float16), (None, torch.float16)]
)
def test_a_vae_that_says_it_overflows_starts_wider(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: bool | None, dtype: torch.dtype
) -> None:
    """Only what its file says counts: diffusers' default for a file that says nothing is True."""
    CardFigures().pretend(monkeypatch)
    folder = tmp_path / "model"
    shutil.copytree(BUILTIN.repository, folder)
    config = folder / "vae" / "config.json"
    told = {key: value for key, value in json.loads(config.read_bytes()).items() if key != "force_upcast"}
    config.write_text(json.dumps(told if said is None else told | {"force_upcast": said}))
    spec = replace(BUILTIN, name="own", repository=str(folder), dtype="float16")
    loader = CardLoader(Settings())
    assert loader.vae(spec).dtype == dtype == loader.dtype(spec, "VAE")
    assert loader.dtype(spec) == torch.float16, "the denoiser is another network"


def test_memory_is_given_back_on_a_card_and_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = CardFigures()
    figures.pretend(monkeypatch)
    empty_device_cache(torch.device("cuda", 1))
    assert figures.emptied == ["card", "pinned"] and figures.used == [1]
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: figures.emptied.append("mac"))
    empty_device_cache(torch.device("mps"))
    assert figures.emptied[-1] == "mac"

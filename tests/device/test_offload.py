from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from backend.device.hub import loaded_bytes, weight_bytes
from backend.device.loading import Loader
from backend.device.offload import choose_offload
from backend.models import BUILTIN
from backend.settings import LOW_MEMORY, Settings

GB = 10**9
FLUX = {"transformer": int(23.8 * GB), "text_encoder_2": int(9.5 * GB), "text_encoder": int(0.25 * GB)}
"""FLUX.1-schnell in bfloat16; 33.7 GB with its VAE."""
SD_V1 = {"unet": int(1.72 * GB), "text_encoder": int(0.25 * GB)}


@pytest.mark.parametrize(
    ("sizes", "said", "card", "ram", "rung", "low_ram"),
    [
        (SD_V1, "2 GB", 4, 8, "none", False),
        (SD_V1, "2 GB", 2, 8, "group", False),
        (FLUX, "34 GB", 48, 64, "none", False),
        (FLUX, "34 GB", 48, 20, "none", False),  # they pass through memory, and do not stay there
        (FLUX, "34 GB", 31, 96, "model", False),
        (FLUX, "34 GB", 23, 96, "group", False),
        (FLUX, "34 GB", 23, 60, "group", True),
        (FLUX, "34 GB", 11, 60, "group", True),
        (FLUX, "34 GB", 23, 30, None, False),
    ],
)
def test_the_rung_follows_from_sizes_and_free_memory(
    sizes: Mapping[str, int], said: str, card: int, ram: int, rung: str | None, low_ram: bool
) -> None:
    chosen, reason = choose_offload(sizes, "cuda", card * GB, ram * GB)
    assert str(reason).endswith(".") and f" {said}" in str(reason)
    assert (chosen and chosen.low_memory) == rung
    assert chosen is None or chosen.low_ram is low_ram or chosen.low_memory != "group"


def test_what_was_asked_for_is_the_least() -> None:
    for rung in LOW_MEMORY:
        chosen, _ = choose_offload(SD_V1, "cuda", 24 * GB, 64 * GB, rung)
        assert chosen is not None and chosen.low_memory == rung
    chosen, _ = choose_offload(FLUX, "cuda", 23 * GB, 64 * GB, "model")
    assert chosen is not None and chosen.low_memory == "group"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_one_memory_for_all_is_either_enough_or_not(device: str) -> None:
    chosen, _ = choose_offload(SD_V1, device, 8 * GB, 8 * GB)
    assert chosen is not None and chosen.low_memory == "none"
    assert choose_offload(FLUX, device, 16 * GB, 16 * GB)[0] is None


def test_sizes_are_those_of_the_loaded_weights() -> None:
    """As counted from headers, for the files that a pipeline without its VAE reads."""
    sizes = weight_bytes(BUILTIN, ["denoiser"], dtype_bytes=torch.float32.itemsize)
    assert sizes is not None and set(sizes) == {"unet", "text_encoder"}
    pipeline = Loader(Settings(device="cpu")).denoiser(BUILTIN)
    for name in ("unet", "text_encoder"):
        held = sum(p.numel() * p.element_size() for p in getattr(pipeline, name).parameters())
        assert sizes[name] == pytest.approx(held, rel=0.01)
    half = weight_bytes(BUILTIN, ["denoiser"], dtype_bytes=2)
    assert half is not None and half["unet"] == sizes["unet"] // 2


def test_whole_numbers_keep_their_size(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {},
            "ids": {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]},
            "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [32, 56]},
        }
    ).encode()
    file = tmp_path / "text_encoder" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(56))
    assert loaded_bytes(file, 2) == 32 + 12

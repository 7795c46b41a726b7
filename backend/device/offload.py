"""How much of a model lies on the device at a time, chosen before it is loaded, from the sizes of its weights."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.device import hub
from backend.device.measure import SAFE_SHARE
from backend.message import Message, join
from backend.models import ModelSpec
from backend.settings import LOW_MEMORY
from backend.units import size

_PINNED = 2
"""Group offload with streams pins a copy of all weights, each rounded up to a power of two (diffusers #11106)."""


@dataclass(frozen=True)
class Offload:
    """A rung of `LOW_MEMORY`: "none", "model" or "group"."""

    low_memory: str
    low_ram: bool = False
    """Group offload without pinned copies of all weights: diffusers' `low_cpu_mem_usage`; slower."""


def choose_offload(
    sizes: Mapping[str, int], device_type: str, device_free: int, ram_free: int, at_least: str = "none"
) -> tuple[Offload | None, Message]:
    """(rung, reason) for weights of `sizes` bytes by component; None if they would not fit anywhere.

    `device_free` and `ram_free` are bytes that could be had now. `at_least` is the rung that the owner asked for, or
    that an out-of-memory error led to: less is not saved. On a processor and on a Mac both memories are the same one,
    so nothing is gained by moving weights, and "none" is chosen unless another was asked for.
    """
    total, largest = sum(sizes.values()), max(sizes.values(), default=0)
    values = {"total": size(total), "largest": size(largest), "free": size(device_free)}
    low_ram = ram_free < _PINNED * total
    lowest = LOW_MEMORY.index(at_least)
    if device_type == "cuda" and total <= device_free * SAFE_SHARE and lowest == 0:
        return Offload("none"), Message("All its weights fit on the card: {total} of {free} free.", **values)
    if total > ram_free:
        return None, Message(
            "Its weights take {total}, and {free} of memory are free.",
            total=values["total"],
            free=size(ram_free),
        )
    if device_type != "cuda":
        return Offload(at_least, low_ram), Message("Its weights take {total}.", total=values["total"])
    if largest <= device_free * SAFE_SHARE and lowest <= LOW_MEMORY.index("model"):
        return Offload("model"), Message(
            "Its weights take {total} and {free} are free on the card, so only the network at work is kept there.",
            **values,
        )
    reason = Message(
        "Its weights take {total}, the largest network {largest}, and {free} are free on the card, so only the layer "
        "at work is kept there.",
        **values,
    )
    if low_ram:
        reason = join(
            reason, Message("To spare this computer's memory, which makes it slower, none are pinned there.")
        )
    return Offload("group", low_ram), reason


def weight_sizes(files: Iterable[Path], dtype_bytes: int) -> dict[str, int]:
    """Bytes that safetensors files take once loaded with floats of `dtype_bytes`, by the folder that they lie in.

    Reads their headers only (https://github.com/huggingface/safetensors#format).
    """
    sizes: dict[str, int] = defaultdict(int)
    for file in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        for tensor in header.values():
            begin, end = tensor["data_offsets"]
            floats = str(tensor["dtype"]).startswith(("F", "BF"))
            sizes[file.parent.name] += math.prod(tensor["shape"]) * dtype_bytes if floats else end - begin
    return dict(sizes)


def denoiser_files(spec: ModelSpec, where: Path) -> list[Path]:
    """The weights that the model's pipeline reads, without its VAE; `where` is its folder or its single file."""
    if where.is_file():
        return [where]
    names = [file.relative_to(where).as_posix() for file in where.glob("*/*.*")]
    return [where / name for name in hub.choose(names, spec.variant, None) if name.endswith(".safetensors")]

"""How much of a model lies on the device at a time, chosen before it is loaded, from the sizes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backend.device.measure import SAFE_SHARE
from backend.message import Message, join
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

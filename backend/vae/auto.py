"""Mode "auto": the first mode that should fit, and in plain words why."""

from __future__ import annotations

from dataclasses import dataclass

from backend.forecast import Direction, vae_peak_bytes

# A forecast from shapes does not know the library's workspace, so not every free byte is promised away.
_SAFE_SHARE = 0.85


@dataclass(frozen=True)
class Choice:
    mode: str
    reason: str


def ladder(
    direction: Direction,
    width: int,
    height: int,
    *,
    block_out_channels: tuple[int, ...],
    element_bytes: int,
    free: int,
    tile_size: int,
    has_remote: bool,
) -> list[Choice]:
    """Modes to try in this order, each with its reason: the first should fit, the rest wait for an
    out-of-memory error. Never empty.
    """

    def need(tile: int | None) -> int:
        return vae_peak_bytes(block_out_channels, direction, width, height, element_bytes, tile)

    budget = free * _SAFE_SHARE
    choices: list[Choice] = []
    if need(None) <= budget:
        choices.append(
            Choice("whole", f"The whole picture fits: about {_size(need(None))} of {_size(free)} free.")
        )
    tiles_fit = need(tile_size) <= budget
    too_big = f"the whole picture needs about {_size(need(None))} and {_size(free)} are free"
    tiled = Choice(
        "tiled",
        f"Tiles of {tile_size} pixels need {_size(need(tile_size))}; {too_big}."
        if not choices
        else "Tiles need less memory than the whole picture.",
    )
    remote = Choice("remote", f"Sent away, because {too_big}." if not choices else "Needs no memory here.")
    if tiles_fit:
        choices.append(tiled)
    if has_remote:
        choices.append(remote)
    if not tiles_fit:
        choices.append(tiled)
    return choices


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"

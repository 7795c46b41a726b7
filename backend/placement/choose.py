"""Mode "auto": the first mode that should fit, and in plain words why."""

from __future__ import annotations

from dataclasses import dataclass

# A forecast from shapes does not know the library's workspace, so not every free byte is promised away.
SAFE_SHARE = 0.85


@dataclass(frozen=True)
class Choice:
    mode: str
    reason: str


def ladder(
    *,
    whole: int,
    streamed: int | None,
    tiled: int,
    free: int,
    tile_size: int,
    has_remote: bool,
    streamed_is_faster: bool = False,
) -> list[Choice]:
    """Modes to try in this order, each with its reason: the first should fit, the rest wait for an
    out-of-memory error. Never empty.

    `whole`, `streamed` (None where it cannot run) and `tiled` are the bytes each is expected to need. Tiles change
    the picture a little, so they come after the exact modes that fit; of those two the faster comes first.
    """
    budget = free * SAFE_SHARE
    choices: list[Choice] = []
    if whole <= budget:
        choices.append(
            Choice("whole", f"The whole picture fits: about {_size(whole)} of {_size(free)} free.")
        )
    too_big = f"the whole picture needs about {_size(whole)} and {_size(free)} are free"

    def reason(first: str, later: str) -> str:
        return later if choices else f"{first}; {too_big}."

    if streamed is not None and streamed <= budget:
        choices.append(
            Choice(
                "streamed",
                reason(
                    f"Streamed gives the same picture in {_size(streamed)}",
                    "Streamed gives the same picture in less memory.",
                ),
            )
        )
    if streamed_is_faster and len(choices) == 2:
        fast = Choice("streamed", f"Gives the same picture as whole, and faster, in {_size(streamed or 0)}.")
        choices = [fast, Choice("whole", "The whole picture fits, too.")]
    tiles = Choice(
        "tiled",
        reason(
            f"Tiles of {tile_size} pixels need {_size(tiled)}",
            "Tiles need less memory than the whole picture.",
        ),
    )
    tiles_fit = tiled <= budget
    if tiles_fit:
        choices.append(tiles)
    if has_remote:
        choices.append(
            Choice("remote", "Needs no memory here." if choices else f"Sent away, because {too_big}.")
        )
    if not tiles_fit:
        choices.append(tiles)
    return choices


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"

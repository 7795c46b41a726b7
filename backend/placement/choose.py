"""Which modes are tried for a stage, in which order, and in plain words why. The only place that compares modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.device.measure import DeviceState
from backend.message import Message, join
from backend.placement.learned import ExpectedCost
from backend.request import StageRequest
from backend.units import size

_STREAMED_MIN_PIXELS = 512 * 512
"""Smaller pictures stay whole, so that what is learned does not move everyday jobs from one rounding to another."""
_LOOK_AGAIN = 20
"""Runs in the faster of two exact modes before the other is timed once more: drivers, libraries and loads change."""


@dataclass(frozen=True)
class Candidate:
    mode: str
    reason: Message


def choose(
    request: StageRequest,
    device: DeviceState,
    expect: Callable[[str], ExpectedCost],
    has_endpoint: bool,
) -> list[Candidate]:
    """The modes to try, in this order; the first should fit, the others wait for an error. Never empty.

    A mode that was asked for by name is the only candidate. For "auto": the exact modes that fit, the faster first;
    then tiles, which change the picture a little; then the endpoint. `expect(mode)` gives what a mode will take;
    streamed's `peak_bytes` is None where it cannot run this VAE.
    """
    if request.options.mode != "auto":
        return [Candidate(request.options.mode, Message("You chose it."))]
    whole, streamed, tiled = (expect(mode) for mode in ("whole", "streamed", "tiled"))
    budget = device.budget_bytes
    sizes = {
        "whole": size(whole.peak_bytes),
        "streamed": size(streamed.peak_bytes),
        "tiled": size(tiled.peak_bytes),
        "free": size(device.free_bytes),
    }
    too_big = Message("the whole picture needs about {whole} and {free} are free", **sizes)
    candidates: list[Candidate] = []
    if (whole.peak_bytes or 0) <= budget:
        reason = Message("The whole picture fits: about {whole} of {free} free.", **sizes)
        candidates.append(Candidate("whole", reason))
    if streamed.peak_bytes is not None and streamed.peak_bytes <= budget:
        faster, why = _streamed_is_faster(request, device, whole, streamed)
        if candidates and faster:
            reason = why or Message("Gives the same picture as whole, and faster, in {streamed}.", **sizes)
            whole_too = Candidate("whole", Message("The whole picture fits, too."))
            candidates = [Candidate("streamed", reason), whole_too]
        elif candidates:
            candidates = [Candidate("whole", join(candidates[0].reason, why))]
            reason = Message("Streamed gives the same picture in less memory.")
            candidates.append(Candidate("streamed", reason))
        else:
            reason = Message("Streamed gives the same picture in {streamed}; {why}.", **sizes, why=too_big)
            candidates.append(Candidate("streamed", reason))
    if candidates:
        tiles = Candidate("tiled", Message("Tiles need less memory than the whole picture."))
    else:
        reason = Message(
            "Tiles of {pixels} pixels need {tiled}; {why}.",
            **sizes,
            pixels=request.options.tile_size,
            why=too_big,
        )
        tiles = Candidate("tiled", reason)
    tiles_fit = (tiled.peak_bytes or 0) <= budget
    if tiles_fit:
        candidates.append(tiles)
    if has_endpoint:
        needs_none = Message("Needs no memory here.")
        sent_away = Message("Sent away, because {why}.", why=too_big)
        candidates.append(Candidate("remote", needs_none if candidates else sent_away))
    return candidates if tiles_fit else [*candidates, tiles]


def _streamed_is_faster(
    request: StageRequest, device: DeviceState, whole: ExpectedCost, streamed: ExpectedCost
) -> tuple[bool, Message]:
    """As measured here, or because it is to be measured again, which the message says; without measurements of both,
    true on processors, as `benchmarks.streamed` found."""
    if request.width * request.height < _STREAMED_MIN_PIXELS:
        return False, Message("")
    if whole.measured_seconds is None or streamed.measured_seconds is None:
        return device.type == "cpu", Message("")
    faster = streamed.measured_seconds < whole.measured_seconds
    slower_one = whole if faster else streamed
    if slower_one.runs_since >= _LOOK_AGAIN:
        return not faster, Message(
            "It was the slower of two ways to the same picture, and is timed again now and then."
        )
    return faster, Message("")

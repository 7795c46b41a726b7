"""What a stage cost and where it ran: the numbers the whole app is a view of.

A number that was not or could not be measured is None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from backend.message import Message

Stage = Literal["encode", "denoise", "decode"]
Direction = Literal["encode", "decode"]
"""Of a VAE."""
MemoryKind = Literal["VRAM", "RAM"]


@dataclass(frozen=True)
class Cost:
    """Seconds and memory of one piece of work. Bytes throughout."""

    seconds: float
    memory_kind: MemoryKind
    """Where torch's allocator handed it out: VRAM on a card, RAM on a processor or a chip that shares its memory."""
    peak_bytes: int | None = None
    """The most that was handed out at one time. VRAM: of all that torch held on the card, as in the published tables.
    RAM: of what the work itself allocated, because there torch keeps no sum of what was there before."""
    baseline_bytes: int | None = None
    """What of `peak_bytes` was handed out before the work began; so it is 0 in RAM."""
    device_bytes: int | None = None
    """All the memory the device has."""

    @property
    def peak_percent(self) -> float | None:
        """`peak_bytes` as % of the device's memory. VRAM: the figure of the published tables."""
        if self.peak_bytes is None or not self.device_bytes:
            return None
        return 100 * self.peak_bytes / self.device_bytes

    @property
    def added_bytes(self) -> int | None:
        """What this work itself needed on top of what was in use."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return max(0, self.peak_bytes - self.baseline_bytes)


@dataclass(frozen=True)
class Traffic:
    """What went over the wire for one remote stage."""

    bytes_sent: int
    bytes_received: int
    server_seconds: float | None = None
    """From the reply's `Server-Timing` header."""
    requests: int = 1
    """Posts, tries that failed included."""
    parts: int = 1
    """Pieces that the picture was sent in and blended from; above 1 the result is not exact."""
    transfer: str | None = None
    """The form that the picture travelled in."""
    lossless: bool | None = None
    """Whether that form keeps every value of an 8-bit picture."""

    def plus(self, other: Traffic) -> Traffic:
        """Both together; server seconds are unknown as soon as one of them is."""
        known = self.server_seconds is not None and other.server_seconds is not None
        return replace(
            other,
            bytes_sent=self.bytes_sent + other.bytes_sent,
            bytes_received=self.bytes_received + other.bytes_received,
            server_seconds=(self.server_seconds or 0.0) + (other.server_seconds or 0.0) if known else None,
            requests=self.requests + other.requests,
        )

    def network_seconds(self, total: float) -> float | None:
        """What of `total` seconds the server did not account for."""
        return None if self.server_seconds is None else max(0.0, total - self.server_seconds)


@dataclass(frozen=True)
class StageReport:
    """One finished stage."""

    stage: Stage
    mode: str
    """The mode that really ran: whole, tiled, streamed, remote; "local" or "none" for denoise."""
    reason: Message
    where: Message
    """A device or a host, as a person would call it."""
    cost: Cost
    traffic: Traffic | None = None
    steps: int | None = None
    step_seconds: float | None = None
    """Median of a denoising's steps from the second on; None below three, and of what has none."""
    dtype: str | None = None
    requested_mode: str | None = None
    """What was asked for; differs from `mode` after auto or a fallback."""
    avoided_bytes: int | None = None
    """Of a remote stage: the VAE's weights that were not loaded here; 0 if they were there anyway, None if unknown."""
    run_id: str | None = None
    """The run's, as the log has it."""
    overlapped_seconds: float | None = None
    """Of a decode elsewhere in a batch: how much of it went by while the next picture was being made here."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the derived figures written out."""
        data = asdict(self)
        # In English for whoever reads the file or the API's answer, and as data for other languages.
        data["messages"] = {"reason": data["reason"], "where": data["where"]}
        data |= {"reason": str(self.reason), "where": str(self.where)}
        data["spared_bytes"] = data.pop("avoided_bytes")
        data["cost"]["peak_percent"] = self.cost.peak_percent
        data["cost"]["added_bytes"] = self.cost.added_bytes
        if self.traffic is not None:
            data["traffic"]["network_seconds"] = self.traffic.network_seconds(self.cost.seconds)
        return data


def avoided_bytes(reports: Sequence[StageReport]) -> int | None:
    """What a run with both ends elsewhere saved by never loading the VAE; None if it saved nothing, or who knows."""
    ends = [report for report in reports if report.stage != "denoise"]
    if len(ends) < 2 or any(report.mode != "remote" for report in ends):
        return None
    return ends[-1].avoided_bytes or None

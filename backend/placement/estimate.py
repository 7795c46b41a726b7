"""What an image-to-image job would take: shown under the button, before it is pressed."""

from __future__ import annotations

from dataclasses import dataclass

from backend.device.measure import free_bytes
from backend.job import ResolvedJob
from backend.placement.shapes import Direction
from backend.run.stage import Stages


@dataclass(frozen=True)
class Estimate:
    """Rough figures; None where nothing of the kind has run here yet."""

    seconds: float | None
    """All three stages. None as long as one of them is unknown."""
    peak_bytes: int | None
    """The larger of the two VAE stages, on top of what is in use; 0 if both go elsewhere."""
    free_bytes: int
    encode_mode: str
    decode_mode: str

    @property
    def fits(self) -> bool | None:
        return None if self.peak_bytes is None else self.peak_bytes <= self.free_bytes


def estimate(job: ResolvedJob, stages: Stages) -> Estimate:
    """The job's expectation on this machine as it is now; nothing is loaded and nothing runs."""
    seconds: list[float | None] = [stages.expect_painting(job)]
    peaks: list[int | None] = []
    modes: list[str] = []
    directions: tuple[Direction, Direction] = ("encode", "decode")
    for direction in directions:
        options = job.job.encode if direction == "encode" else job.job.decode
        mode = stages.choices(job.spec, direction, job.width, job.height, options)[0].mode
        modes.append(mode)
        if mode == "remote":
            seconds.append(None)  # another machine, over a network
            peaks.append(0)
            continue
        expected = stages.expect(job.spec, direction, job.width, job.height, mode, options)
        seconds.append(expected.seconds)
        peaks.append(expected.peak_bytes)
    known_seconds = [value for value in seconds if value is not None]
    known_peaks = [value for value in peaks if value is not None]
    return Estimate(
        seconds=sum(known_seconds) if len(known_seconds) == len(seconds) else None,
        peak_bytes=max(known_peaks) if len(known_peaks) == len(peaks) else None,
        free_bytes=free_bytes(stages.loader.device),
        encode_mode=modes[0],
        decode_mode=modes[1],
    )

"""What an image-to-image job would take: shown under the button, before it is pressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.job import ResolvedJob, VaeOptions
from backend.placement.choose import Candidate
from backend.placement.learned import ExpectedCost
from backend.report import Direction
from backend.request import StageRequest


@dataclass(frozen=True)
class Estimate:
    """Rough figures; None where nothing of the kind has run here yet."""

    seconds: float | None
    """All three stages. None as long as one of them is unknown."""
    peak_bytes: int | None
    """The largest of the stages, on top of what is in use; the denoising counts once it has run here. 0 if nothing
    computes here."""
    free_bytes: int
    encode_mode: str
    decode_mode: str

    @property
    def fits(self) -> bool | None:
        return None if self.peak_bytes is None else self.peak_bytes <= self.free_bytes


def estimate(
    job: ResolvedJob,
    free_bytes: int,
    candidates: Callable[[StageRequest], Sequence[Candidate]],
    expect: Callable[[StageRequest, str], ExpectedCost],
    denoising: ExpectedCost,
) -> Estimate:
    """The two VAE stages in the first mode of their `candidates`, and the denoising, together."""

    def stage(direction: Direction, options: VaeOptions) -> tuple[str, ExpectedCost]:
        request = StageRequest(direction, job.spec, job.width, job.height, options)
        mode = candidates(request)[0].mode
        # Another machine, over a network: no memory here, and nobody knows how long.
        return mode, ExpectedCost(0, None) if mode == "remote" else expect(request, mode)

    encode_mode, encode = stage("encode", job.encode)
    decode_mode, decode = stage("decode", job.decode)
    seconds = (encode.seconds, denoising.seconds, decode.seconds)
    peaks = (encode.peak_bytes, denoising.peak_bytes or 0, decode.peak_bytes)
    return Estimate(
        seconds=None if None in seconds else sum(value for value in seconds if value is not None),
        peak_bytes=None if None in peaks else max(value for value in peaks if value is not None),
        free_bytes=free_bytes,
        encode_mode=encode_mode,
        decode_mode=decode_mode,
    )

"""One picture, or one latents file, through several VAE modes: what each costs, and how close to `whole` it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from backend import images, quality
from backend.device.measure import SAFE_SHARE
from backend.errors import Cancelled, LatentRelayError
from backend.job import MAX_SIDE, VaeOptions
from backend.message import Message, literal, mode_name
from backend.report import StageReport
from backend.units import percent, size

if TYPE_CHECKING:
    import torch

    from backend.studio import Studio

SAME_DB = 45.0
"""PSNR above which nobody sees a difference in 8-bit pictures, even when switching between them."""
CLOSE_DB = 30.0
_ROUNDING_DB = 60.0
_MIN_SIDE = 64


@dataclass(frozen=True)
class Row:
    """One mode's picture, cost and distance to `whole`; None for what there is not, and `error` says why."""

    mode: str
    image: Image.Image | None = None
    reports: tuple[StageReport, ...] = ()
    psnr: float | None = None
    ssim: float | None = None
    colour_difference: float | None = None
    seam_score: float | None = None
    error: Message | None = None

    @property
    def seconds(self) -> float | None:
        return sum(report.cost.seconds for report in self.reports) if self.reports else None

    @property
    def peak_bytes(self) -> int | None:
        """The maximum over its stages: on a GPU all that was allocated, in RAM what was added."""
        needs = [
            report.cost.added_bytes if report.cost.memory_kind == "RAM" else report.cost.peak_bytes
            for report in self.reports
        ]
        known = [need for need in needs if need is not None]
        return max(known) if known and len(known) == len(needs) else None

    @property
    def added_bytes(self) -> int | None:
        """The maximum over its stages of what each took above its start; what modes are compared by."""
        known = [report.cost.added_bytes for report in self.reports if report.cost.added_bytes is not None]
        return max(known) if known and len(known) == len(self.reports) else None

    @property
    def peak_percent(self) -> float | None:
        total = self.reports[0].cost.device_bytes if self.reports else None
        return None if self.peak_bytes is None or not total else 100 * self.peak_bytes / total

    @property
    def wire_bytes(self) -> int | None:
        """Bytes sent and received; None for a mode that stays here."""
        traffic = [report.traffic for report in self.reports if report.traffic is not None]
        return sum(t.bytes_sent + t.bytes_received for t in traffic) if traffic else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the picture."""
        return {
            "mode": self.mode,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "added_bytes": self.added_bytes,
            "peak_percent": self.peak_percent,
            "wire_bytes": self.wire_bytes,
            "psnr": self.psnr if self.psnr != float("inf") else "inf",
            "ssim": self.ssim,
            "colour_difference": self.colour_difference,
            "seam_score": self.seam_score,
            "error": None if self.error is None else str(self.error),
        }


def at_working_size(
    studio: Studio, image: Image.Image, model: str, longest: int | None = None
) -> tuple[Image.Image, Message]:
    """(the RGB picture as it is compared, its size in a sentence).

    Its own size, cut to whole latents; smaller where its longer side shall be `longest`, or where the whole picture,
    the reference, would not fit the free memory. Never enlarged, but to 64 pixels a side.
    """
    grid = studio.find_model(model).size_multiple
    scale = min(1.0, (longest or MAX_SIDE) / max(image.size))
    has, room = image.size, True

    def scaled() -> tuple[int, int]:
        width, height = (max(_MIN_SIDE, int(side * scale) // grid * grid) for side in has)
        return width, height

    while (share := studio.whole_share(model, *scaled())) > SAFE_SHARE and max(scaled()) > _MIN_SIDE:
        room = False
        scale *= min(0.95, (SAFE_SHARE / share) ** 0.5)
    width, height = scaled()
    values = {"width": width, "height": height, "has_width": has[0], "has_height": has[1]}
    if (width, height) == has:
        return image, Message("Compared at {width} × {height} pixels, the picture’s own size.", **values)
    if scale == 1 and width <= has[0] and height <= has[1]:
        left, top = (has[0] - width) // 2, (has[1] - height) // 2
        cut = image.crop((left, top, left + width, top + height))
        return cut, Message(
            "Compared at {width} × {height} pixels, cut from {has_width} × {has_height} to whole latents.",
            **values,
        )
    resized = images.resize(image, width, height)
    if not room:
        return resized, Message(
            "Compared at {width} × {height} pixels, the most that fits the free memory; the picture has "
            "{has_width} × {has_height}.",
            **values,
        )
    return resized, Message(
        "Compared at {width} × {height} pixels; the picture has {has_width} × {has_height}.", **values
    )


def compare(
    studio: Studio,
    source: Image.Image | torch.Tensor,
    model: str,
    modes: Sequence[str],
    options: VaeOptions | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Row]:
    """A row for each mode as it gets done; `whole`, the reference, always comes first, asked for or not.

    A picture makes the round trip (encode, decode) in each mode; latents (1, C, h, w) are only decoded. A mode that
    fails gives a row with its error, and the others go on; without `whole` the distances are None.

    Raises:
        Cancelled: `stop` was set.
    """
    sizes = options or VaeOptions()
    reference: Image.Image | None = None
    for mode in dict.fromkeys(["whole", *modes]):
        requested = replace(sizes, mode=mode)
        reports: list[StageReport] = []
        try:
            if isinstance(source, Image.Image):
                latents, report = studio.encode(source, model, requested, stop)
                reports.append(report)
            else:
                latents = source
            image, report = studio.decode(latents, model, requested, stop)
            reports.append(report)
        except Cancelled:
            raise
        except LatentRelayError as error:
            yield Row(mode, error=error.full_message)
            continue
        if mode == "whole":
            reference = image
        yield _row(mode, image, tuple(reports), reference, sizes)


def _row(
    mode: str,
    image: Image.Image,
    reports: tuple[StageReport, ...],
    reference: Image.Image | None,
    sizes: VaeOptions,
) -> Row:
    if reference is None:
        return Row(mode, image, reports)
    distance = quality.psnr(image, reference)
    return Row(
        mode,
        image,
        reports,
        psnr=distance,
        ssim=quality.ssim(image, reference),
        colour_difference=quality.colour_difference(image, reference),
        # Above that only single rounding steps differ, and where those lie says nothing about seams.
        seam_score=None
        if distance > _ROUNDING_DB
        else quality.seam_score(image, reference, sizes.tile_size, sizes.tile_overlap),
    )


_MODES = {
    "tiled": Message("Tiled"),
    "streamed": Message("Streamed"),
    "tiny": Message("Tiny"),
    "remote": Message("Remote"),
    "auto": Message("Auto"),
}
_CLOSENESS = (
    Message("the same picture"),
    Message("nearly the same picture"),
    Message("a visibly different picture"),
)


def conclusion(rows: Sequence[Row]) -> Message:
    """One sentence in plain words: which mode a person would take, and what it costs."""
    whole = next((row for row in rows if row.mode == "whole"), None)
    others = [row for row in rows if row.mode != "whole" and row.image is not None]
    if whole is None or whole.image is None:
        working = [row.mode for row in others]
        if not working:
            return Message("No mode could make this picture here.")
        return Message("The whole picture did not fit, but “{mode}” made it.", mode=mode_name(working[0]))
    if not others:
        return Message("Only the whole picture was made, so there is nothing to compare it with.")
    best = min(others, key=lambda row: (_closeness(row), row.added_bytes or 2**63))
    mode, picture = _MODES.get(best.mode, literal(best.mode.capitalize())), in_words(best)
    if best.wire_bytes is not None:
        return Message(
            "{mode} gives {picture} for {size} over the network.",
            mode=mode,
            picture=picture,
            size=size(best.wire_bytes),
        )
    share = memory_share(best, whole)
    times = best.seconds / whole.seconds if best.seconds and whole.seconds else None
    if share is not None and times is not None:
        return Message(
            "{mode} gives {picture} in {share} of the memory and {times:.1f} times the time.",
            mode=mode,
            picture=picture,
            share=percent(share),
            times=times,
        )
    if share is not None:
        return Message(
            "{mode} gives {picture} in {share} of the memory.",
            mode=mode,
            picture=picture,
            share=percent(share),
        )
    if times is not None:
        return Message(
            "{mode} gives {picture} in {times:.1f} times the time.", mode=mode, picture=picture, times=times
        )
    return Message("{mode} gives {picture}.", mode=mode, picture=picture)


def in_words(row: Row) -> Message:
    """How a mode's picture compares to that of `whole`, to the eye."""
    return _CLOSENESS[_closeness(row)]


def memory_share(row: Row, whole: Row) -> float | None:
    """Percent of what `whole` took above its start."""
    if not row.added_bytes or not whole.added_bytes:
        return None
    return 100 * row.added_bytes / whole.added_bytes


def _closeness(row: Row) -> int:
    """0 the same to the eye, 1 close, 2 visibly different."""
    value = row.psnr if row.psnr is not None else 0.0
    return 0 if value >= SAME_DB else 1 if value >= CLOSE_DB else 2

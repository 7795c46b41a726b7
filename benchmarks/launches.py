"""What each VAE mode asks of a graphics card, counted without one: launches, waits, layouts, and what they may cost.

    python -m benchmarks.launches [--models sd-v1 flux-schnell] [--sizes 512 1024 2048] [--no-save]

Counted on a card that is only pretended (`tests.pretended_card`), in float16 or the model's own half precision:

launches      aten calls that start work on the card; views and allocations start none
waits         copies from and to pageable memory and values read, each of which makes the host wait for the card
layout_bytes  rewritten only to change between NCHW and NHWC: copies, and what a convolution or norm rearranges itself
multiply_adds of convolutions and matrix products

Three cards, from their makers' data sheets: `device_seconds` is the sum over launches of whichever is larger,
arithmetic at the card's tensor rate or bytes at its bandwidth. No kernel is faster than that, many take twice as long.
Beside it stands `host_seconds`, launches times what torch takes for one. The larger of the two binds the mode.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backend.models import FLUX, MODELS, SD_V1, ModelSpec
from backend.report import Direction
from backend.vae.base import LocalVAE
from backend.vae.modes import LOCAL_MODES, ModeOptions, local_vae
from benchmarks.common import publish
from benchmarks.streamed import tiled_by_diffusers
from tests.pretended_card import CARD, PretendedCard

LAUNCH_SECONDS = 5e-6
"""Of the host for one aten call from Python; faster hosts need 3, slower ones 10 millionths."""


@dataclass(frozen=True)
class Card:
    """Tensor rate with float32 sums, not sparse, in FLOP/s; bandwidth in bytes/s."""

    name: str
    rate: float
    bandwidth: float

    def seconds(self, multiply_adds: int, moved: int) -> float:
        """Of one kernel, at least."""
        return max(2 * multiply_adds / self.rate, moved / self.bandwidth)


CARDS = (
    Card("RTX 3070", 40.6e12, 448e9),
    Card("RTX 4090", 165.2e12, 1008e9),
    Card("H100 SXM", 989e12, 3350e9),
)
MODES = ("whole", "tiled", "tiled by diffusers", "streamed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[SD_V1.name, FLUX.name], choices=sorted(MODELS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--modes", nargs="+", default=MODES, choices=(*MODES, *LOCAL_MODES))
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for row in counted(MODELS[name], options.sizes, options.modes):
            print(line(row), flush=True)
            rows.append(row)
    result = {"torch": torch.__version__, "launch_seconds": LAUNCH_SECONDS, "rows": rows}
    publish("launches", result, save=not options.no_save)


def counted(spec: ModelSpec, sizes: Sequence[int], modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each size, direction and mode of a model."""
    for size in sizes:
        directions: tuple[Direction, ...] = ("encode", "decode")
        for direction in directions:
            for mode in modes:
                card = count(spec, direction, size, mode)
                yield {
                    "model": spec.name,
                    "direction": direction,
                    "size": size,
                    "mode": mode,
                    "launches": card.launches,
                    "waits": sum(card.syncs.values()),
                    "layout_bytes": card.layout_bytes,
                    "multiply_adds": sum(products for products, _ in card.work),
                    "host_seconds": card.launches * LAUNCH_SECONDS,
                    "device_seconds": {
                        one.name: sum(one.seconds(*work) for work in card.work) for one in CARDS
                    },
                }


def count(spec: ModelSpec, direction: Direction, size: int, mode: str) -> PretendedCard:
    """One encode or decode of size x size pixels with everything on the card, as the app computes it."""
    with PretendedCard() as card:
        vae = _vae(mode, card.vae(spec), spec)
        dtype, side = vae.dtype, size // spec.latents.downscale
        shape = (1, 3, size, size) if direction == "encode" else (1, spec.latents.channels, side, side)
        given = torch.empty(shape, dtype=dtype, device=CARD)
        card.forget()
        if direction == "encode":
            vae.encode(given)
        else:
            vae.decode(given)
    return card


def _vae(mode: str, module: Any, spec: ModelSpec) -> LocalVAE:
    if mode != "tiled by diffusers":
        return local_vae(mode, module, spec.latents, ModeOptions(512, 128))
    return tiled_by_diffusers(module, spec.latents, 512, 128)


def line(row: dict[str, Any]) -> str:
    cards = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in row["device_seconds"].items())
    return (
        f"{row['model']} {row['direction']} {row['size']} {row['mode']}: {row['launches']} launches, "
        f"{row['waits']} waits, {row['layout_bytes'] / 2**20:.0f} MiB between layouts; "
        f"ms: host {row['host_seconds'] * 1e3:.1f}, {cards}"
    )


if __name__ == "__main__":
    main()

"""The published VAE tables, remade on this machine: encode and decode, by model, size and mode.

    python -m benchmarks.vae            what the machine can: SD v1 and SDXL, 256 to 2048 pixels
    python -m benchmarks.vae --quick    small sizes and few runs, for a CPU

Real weights where they are on this computer, else random ones of the same architecture; the output says which.
Writes JSON, CSV and a Markdown table into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence

from backend.bench import Bench, Case, Measured, table
from backend.device.loading import Loader
from backend.models import MODELS
from backend.placement.cards import DEFAULT_TILE
from backend.settings import Settings
from benchmarks.common import RESULTS, machine, publish


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="256 and 512 pixels, three runs each")
    parser.add_argument("--models", nargs="+", default=["sd-v1", "sdxl"], choices=sorted(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, help="sides in pixels (default 256 512 1024 2048)")
    parser.add_argument("--stages", nargs="+", default=["encode", "decode"], choices=["encode", "decode"])
    parser.add_argument("--modes", nargs="+", default=list(LOCAL_MODES), choices=LOCAL_MODES)
    parser.add_argument("--runs", type=int, help="measured runs a cell (default 5, quick 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument(
        "--dtype", choices=["float16", "bfloat16", "float32"], help="default: the model's own"
    )
    parser.add_argument("--name", help="name of the result files (default: from the device)")
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()

    import torch

    loader = Loader(Settings(device=options.device))
    bench = Bench(loader, getattr(torch, options.dtype) if options.dtype else None)
    sizes = options.sizes or ([256, 512] if options.quick else [256, 512, 1024, 2048])
    cases = [
        Case(stage, MODELS[name], size, mode, tile, tile // 4)
        for name in options.models
        for tile in [DEFAULT_TILE.get(name, 512)]
        for stage in options.stages
        for size in sizes
        for mode in options.modes
        # Below the tile size tiled is whole; the published tables repeat the figure, we leave it out.
        if mode != "tiled" or size > tile
    ]
    rows: list[Measured] = []
    for row in bench.run(cases, options.runs or (3 if options.quick else 5)):
        rows.append(row)
        seconds = row.error or f"{row.seconds:.3f} s"
        print(f"{row.model} {row.stage} {row.size} {row.mode}: {seconds}", file=sys.stderr, flush=True)
    markdown = table(rows, options.modes)
    print(markdown, end="\n\n")
    name = options.name or "vae-" + re.sub(r"[^a-z0-9]+", "-", machine()["device"].lower()).strip("-")
    if not options.no_save:
        write(name, rows, markdown)
    publish(name, {"machine": machine(), "rows": [r.as_dict() for r in rows]}, save=not options.no_save)


LOCAL_MODES = ("whole", "streamed", "tiled")


def write(name: str, rows: Sequence[Measured], markdown: str) -> None:
    """The rows as CSV and Markdown beside the JSON."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0].as_dict()))
        writer.writeheader()
        writer.writerows(row.as_dict() for row in rows)
    facts = machine()
    head = f"{facts['device']}, {facts['cores']} cores, torch {facts['torch']}, {facts['date']}"
    (RESULTS / f"{name}.md").write_text(f"{head}\n\n{markdown}\n")


if __name__ == "__main__":
    main()

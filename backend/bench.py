"""The published tables, remade on this machine: seconds and memory of VAE encode and decode by size and mode.

The command `python -m benchmarks.vae` and the page's Benchmark run this same code, cell by cell.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from backend.device.interrupt import interruptible, raise_if_stopped
from backend.device.loading import Loader
from backend.device.measure import Meter, device_name, empty_device_cache
from backend.device.precision import dtype_name
from backend.errors import Cancelled, LatentRelayError, OutOfMemoryError
from backend.models import ModelSpec
from backend.report import Cost

if TYPE_CHECKING:
    import torch

    from backend.vae.base import LocalVAE

OOM = "OOM"
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Case:
    """One cell to measure: a stage of a model's VAE on a square picture of `size` pixels in one mode."""

    stage: str
    model: ModelSpec
    size: int
    mode: str
    tile_size: int = 512
    tile_overlap: int = 128


@dataclass(frozen=True)
class Measured:
    """A cell's result; `seconds` is the median, None with `error` set where it could not be done."""

    stage: str
    model: str
    gpu: str
    size: int
    mode: str
    dtype: str
    weights: str
    runs: int
    seconds: float | None = None
    peak_bytes: int | None = None
    memory_percent: float | None = None
    memory_kind: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """Measures cells on the loader's device; VAEs are kept between cells of the same model."""

    def __init__(self, loader: Loader, dtype: torch.dtype | None = None) -> None:
        self.loader = loader
        self._dtype = dtype
        self._modules: dict[str, Any] = {}

    def run(
        self,
        cases: Sequence[Case],
        runs: int = 5,
        stop: threading.Event | None = None,
    ) -> Iterator[Measured]:
        """Each case's result as it is there: one warm-up, then the median of `runs`; peaks are reset each time.

        Raises:
            Cancelled: `stop` was set; what was yielded before stays true.
        """
        for case in cases:
            raise_if_stopped(stop)
            yield self._measure(case, runs, stop)

    def _module(self, spec: ModelSpec, weights: str) -> Any:
        """The model's VAE with its "real" weights, or of the same shape with "random" ones."""
        if spec.name not in self._modules:
            self._modules.clear()  # one at a time: the next model's cells want the memory
            if weights == "real":
                self._modules[spec.name] = self.loader.vae(spec)
            else:
                from backend.vae.architecture import random_vae

                self._modules[spec.name] = random_vae(spec, self.dtype(spec), self.loader.device)
        return self._modules[spec.name]

    def dtype(self, spec: ModelSpec) -> torch.dtype:
        return self._dtype or self.loader.dtype(spec)

    def _measure(self, case: Case, runs: int, stop: threading.Event | None) -> Measured:
        import torch

        from backend.vae.modes import ModeOptions, local_vae

        device = self.loader.device
        dtype = self.dtype(case.model)
        weights = "random" if self.loader.missing(case.model, ["VAE"]) else "real"
        blank = Measured(
            case.stage,
            case.model.name,
            str(device_name(device)),
            case.size,
            case.mode,
            dtype_name(dtype),
            weights,
            runs,
        )

        def measure() -> list[Cost]:
            # Loading waits in the queue too: it may free what another's job is using.
            module = self._module(case.model, weights)
            # Moves nothing unless the command line asked for another dtype than the loader's.
            module.to(dtype)
            options = ModeOptions(case.tile_size, case.tile_overlap, stop)
            vae = local_vae(case.mode, module, case.model.latents, options)
            work = _work(case, vae, torch.Generator().manual_seed(0))
            with interruptible(module, stop):
                work()
                return [_cost(work, device) for _ in range(runs)]

        try:
            costs = self.loader.queue.run(measure, stop)
        except OutOfMemoryError:
            empty_device_cache(device)
            return replace(blank, error=OOM)
        except Cancelled:
            raise
        except LatentRelayError as error:
            return replace(blank, error=str(error))
        return replace(
            blank,
            seconds=statistics.median(cost.seconds for cost in costs),
            peak_bytes=_highest([cost.peak_bytes for cost in costs]),
            memory_percent=_highest([cost.peak_percent for cost in costs]),
            memory_kind=costs[0].memory_kind,
        )


def _work(case: Case, vae: LocalVAE, generator: torch.Generator) -> Callable[[], object]:
    import torch

    if case.stage == "encode":
        image = torch.rand((1, 3, case.size, case.size), generator=generator) * 2 - 1
        image = image.to(vae.device, vae.dtype)
        return lambda: vae.encode(image)
    side = case.size // case.model.latents.downscale
    latents = torch.randn((1, case.model.latents.channels, side, side), generator=generator)
    latents = latents.to(vae.device, vae.dtype)
    return lambda: vae.decode(latents)


def _cost(work: Callable[[], object], device: torch.device) -> Cost:
    with Meter(device) as meter:
        work()
    return meter.cost


def _highest(values: Sequence[Number | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


# -- the published layout --------------------------------------------------------------------------------------


def table(rows: Sequence[Measured], modes: Sequence[str]) -> str:
    """Markdown tables in the published layout, one a stage and model: whole first, then a pair of columns a mode."""
    parts = []
    for stage, model in dict.fromkeys((row.stage, row.model) for row in rows):
        found = {(r.size, r.mode): r for r in rows if (r.stage, r.model) == (stage, model)}
        first = next(iter(found.values()))
        kind = "RAM" if first.memory_kind == "RAM" else "Memory"
        head = ["GPU", "Resolution"]
        for mode in modes:
            name = "" if mode == "whole" else f"{mode.capitalize()} "
            head += [f"{name}Time (s)".capitalize(), f"{name}{kind} (%)"]
        lines = [
            f"**{model}, {stage}** ({first.dtype}, {first.weights} weights)",
            "",
            _line(head),
            _line(["---"] * len(head)),
        ]
        for size in dict.fromkeys(size for size, _ in found):
            cells = [first.gpu, f"{size}x{size}"]
            for mode in modes:
                cells += _cells(found.get((size, mode)))
            lines.append(_line(cells))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(row: Measured | None) -> list[str]:
    if row is None:
        return ["", ""]
    if row.seconds is None:
        return [OOM, OOM] if row.error == OOM else ["–", "–"]
    return [f"{row.seconds:.3f}", "–" if row.memory_percent is None else f"{row.memory_percent:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

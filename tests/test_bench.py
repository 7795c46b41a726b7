from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from backend.bench import OOM, Bench, Case, Measured, table
from backend.device.loading import Loader
from backend.errors import Cancelled
from backend.models import BUILTIN, SD_V1, ModelSpec
from backend.placement.cards import CARDS, cells
from backend.settings import Settings
from backend.vae.architecture import random_vae
from backend.vae.whole import Whole
from benchmarks.cuda import kernels
from tests.waiting import occupied


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(Settings(device="cpu"))


def test_a_cell_is_measured(loader: Loader) -> None:
    case = Case("decode", BUILTIN, 64, "whole")
    (row,) = Bench(loader).run([case], runs=2)
    assert row.error is None and row.seconds and row.seconds > 0 and row.runs == 2
    assert (row.model, row.size, row.dtype, row.weights) == ("builtin", 64, "float32", "real")
    assert row.memory_kind == "RAM"


def test_out_of_memory_is_a_cell_not_an_end(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Whole._encode

    def too_big(self: Whole, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] > 64:
            raise torch.OutOfMemoryError("no")
        return real(self, image)

    monkeypatch.setattr(Whole, "_encode", too_big)
    rows = list(Bench(loader).run([Case("encode", BUILTIN, size, "whole") for size in (128, 64)], runs=1))
    assert [row.error for row in rows] == [OOM, None] and rows[0].seconds is None


def test_a_mode_that_cannot_run_says_why(loader: Loader) -> None:
    (row,) = Bench(loader).run([Case("decode", BUILTIN, 64, "sideways")])
    assert row.error is not None and "sideways" in row.error


def test_stopping_keeps_what_was_measured(loader: Loader) -> None:
    stop = threading.Event()
    rows = Bench(loader).run([Case("decode", BUILTIN, 64, "whole")] * 2, 1, stop)
    assert next(rows).error is None
    stop.set()
    with pytest.raises(Cancelled):
        next(rows)


def test_loading_waits_for_its_turn(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may free what another's job is using."""
    loaded, load = threading.Event(), loader.vae

    def vae(spec: ModelSpec) -> object:
        loaded.set()
        return load(spec)

    monkeypatch.setattr(loader, "vae", vae)
    rows: list[Measured] = []
    bench = Bench(loader).run([Case("decode", BUILTIN, 64, "whole")], runs=1)
    thread = threading.Thread(target=lambda: rows.extend(bench))
    with occupied(loader.queue):
        thread.start()
        assert not loaded.wait(0.5)
    thread.join(60)
    assert loaded.is_set() and rows[0].error is None


def test_random_weights_have_the_architecture_s_size() -> None:
    """83.7 million parameters, as the SD v1 VAE has."""
    vae = random_vae(SD_V1, torch.bfloat16, torch.device("meta"))
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def fake(
    size: int, mode: str, seconds: float | None, percent: float | None, error: str | None = None
) -> Measured:
    return Measured(
        "encode", "sdxl", "Card", size, mode, "float16", "random", 3, seconds, 1, percent, "VRAM", error
    )


def test_the_table_has_the_published_layout_byte_for_byte() -> None:
    rows = [
        fake(512, "whole", 0.0931, 17.1465),
        fake(2048, "whole", None, None, OOM),
        fake(2048, "tiled", 2.674, 55.8355),
        fake(2048, "streamed", None, None, "cannot"),
    ]
    assert table(rows, ["whole", "tiled", "streamed"]) == (
        "**sdxl, encode** (float16, random weights)\n\n"
        "| GPU | Resolution | Time (s) | Memory (%) | Tiled time (s) | Tiled Memory (%) | "
        "Streamed time (s) | Streamed Memory (%) |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| Card | 512x512 | 0.093 | 17.15 |  |  |  |  |\n"
        "| Card | 2048x2048 | OOM | OOM | 2.674 | 55.84 | – | – |"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # there is no card to look at
def test_a_timeline_is_kept_for_a_trace_viewer(tmp_path: Path) -> None:
    trace = tmp_path / "new" / "decode.json"
    assert kernels(lambda: torch.ones(3) + 1, trace) == 0, "nothing starts on a card here"
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::add" in names


def test_the_published_cells_are_all_there() -> None:
    everything = cells()
    assert len(everything) == 2 * 64 and {cell.gpu for cell in everything} <= set(CARDS)
    assert sum(cell.out_of_memory for cell in everything) > 0
    one = next(
        c for c in everything if (c.stage, c.model, c.size, c.tiled) == ("encode", "sd-v1", 2048, False)
    )
    assert one.peak_bytes is not None and one.memory_percent == 96.054

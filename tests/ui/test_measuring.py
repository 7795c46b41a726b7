"""The tabs Compare, Will it fit? and Benchmark: what they show, without a browser."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
from PIL import Image

from backend.bench import OOM, Measured
from backend.compare import Row
from backend.message import literal
from backend.models import SD_V1, SDXL
from backend.placement.fit import will_it_fit
from backend.report import Cost, StageReport
from ui import benchmark, compare, fit


def row(mode: str, **values: object) -> Row:
    report = StageReport("decode", mode, "", "", Cost(1.5, "RAM", 300, 100, 1000))
    return Row(mode, Image.new("RGB", (8, 8)), (report,), **values)  # type: ignore[arg-type]


def test_compare_shows_a_dash_for_the_unknown_and_the_sentence_for_a_failure() -> None:
    html = compare.table(
        [row("whole", psnr=math.inf), row("tiled", psnr=31.25), Row("remote", error=literal("<gone>"))], "en"
    )
    assert "31.2 dB" in html and "reference" in html and "&lt;gone&gt;" in html and "<gone>" not in html
    assert html.count("<span>–</span></td>") >= 3
    assert "200 B (100 %)" in html and "200 B</span>" in html, (
        "what was added, and that of the whole picture's"
    )


def test_fit_shows_the_published_figure_beside_the_forecast() -> None:
    html = fit.table(will_it_fit(SD_V1, 1024, 1024, 8 * 2**30, "NVIDIA GeForce RTX 3070"), "en")
    assert html.count("<tr data-fits=") == 6 and "37 %" in html and "11 %" in html and "0.22 s" in html


def test_fit_shows_a_published_96_percent_inside_its_own_range() -> None:
    card = "NVIDIA GeForce RTX 3070"
    html = fit.table(will_it_fit(SD_V1, 2048, 2048, 8 * 2**30, card), "en", "RTX 3070")
    assert "64–100 %" in html and "96 %" in html and "148" not in html
    assert "5.2 GB" in html and "12 GB" in html and "only just" in html
    assert "1.2 s <small>published, RTX 3070</small>" in html
    assert "from published figures, RTX 3070" in html, "2048 pixels of decode were never published"


def test_fit_says_which_published_figures_are_of_another_precision() -> None:
    card = "NVIDIA GeForce RTX 3070"
    html = fit.table(will_it_fit(SDXL, 2048, 2048, 8 * 2**30, card), "en", "RTX 3070")
    assert "out of memory <small>in float32</small>" in html and "only just" in html
    as_published = fit.table(will_it_fit(SDXL, 2048, 2048, 8 * 2**30, card, 4), "en", "RTX 3070")
    assert "<small>in float32" not in as_published and '<tr data-fits="no">' in as_published


def measured(size: int, mode: str, error: str | None = None) -> Measured:
    done = error is None
    return Measured(
        "encode",
        "sd-v1",
        "CPU",
        size,
        mode,
        "float32",
        "random",
        1,
        2.0 if done else None,
        10**9,
        4.0,
        "RAM",
        error,
    )


def test_benchmark_draws_numbers_with_published_cards_beside() -> None:
    rows = [measured(512, "whole"), measured(1024, "whole", OOM)]
    data = benchmark.frame(rows, "encode", "sd-v1", ["RTX 3070"])
    assert list(data["series"].unique()) == ["whole", "RTX 3070", "RTX 3070, tiled"]
    assert len(data) == 1 + 8, "an out-of-memory cell has nothing to draw"
    for frame in (data, benchmark.frame([], "decode", "builtin", [])):
        assert pd.api.types.is_float_dtype(frame["size"]) and pd.api.types.is_float_dtype(frame["seconds"])
    assert "out of memory" in benchmark.table(rows, "en")


def test_benchmark_leaves_out_tiles_that_would_be_the_whole_picture() -> None:
    cases = benchmark.cases(SD_V1, "decode", [64, 1024], ["whole", "tiled"])
    assert [(c.size, c.mode, c.tile_size) for c in cases] == [
        (64, "whole", 64),
        (1024, "whole", 512),
        (1024, "tiled", 512),
    ]


def test_benchmark_exports_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.csv"
    benchmark.export([measured(512, "whole"), measured(512, "tiled", OOM)], path)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["mode"] for line in lines] == ["whole", "tiled"]
    assert lines[1]["seconds"] == "" and lines[1]["error"] == OOM

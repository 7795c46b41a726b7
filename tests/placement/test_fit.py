from __future__ import annotations

import pytest

from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL
from backend.placement.cards import CARDS, DEFAULT_TILE, Cell, cells, gpu_peak_bytes
from backend.placement.fit import Fit, advise, will_it_fit
from backend.settings import Settings
from backend.studio import Studio

GIB = 2**30


def forecast(cell: Cell) -> int:
    tile = DEFAULT_TILE[cell.model] if cell.tiled else None
    stage = "encode" if cell.stage == "encode" else "decode"
    return gpu_peak_bytes(MODELS[cell.model], stage, cell.size, cell.size, tile)


def test_the_forecast_holds_against_every_published_cell() -> None:
    """Within 15 % where a peak was published (a full card's peak is the card), and over the card where it was OOM."""
    worst = 0.0
    for cell in cells():
        card = CARDS[cell.gpu]
        if cell.peak_bytes is None:
            assert forecast(cell) > card, cell
        else:
            error = min(forecast(cell), 0.96 * card) / cell.peak_bytes - 1
            worst = max(worst, abs(error))
            assert abs(error) < 0.15, (cell, error)
    assert worst > 0.10, "the docstring says 14 %: keep it true if this gets better"


def test_all_modes_both_ways_with_the_published_figures_beside() -> None:
    fits = will_it_fit(SD_V1, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")
    assert [(f.direction, f.mode) for f in fits] == [
        (d, m) for d in ("encode", "decode") for m in ("whole", "streamed", "tiled")
    ]
    whole = fits[0]
    assert whole.published is not None and whole.published.memory_percent == 96.054 and whole.seconds == 1.217
    assert fits[1].published is None and fits[1].seconds is None, "nobody has published streamed"
    oom = will_it_fit(SDXL, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")[0]
    assert oom.published is not None and oom.published.out_of_memory and not oom.fits


def test_streamed_needs_less_than_whole_and_tiles_do_not_grow() -> None:
    small, large = (
        {(f.direction, f.mode): f for f in will_it_fit(SDXL, side, side, 24 * GIB)} for side in (1024, 4096)
    )
    for direction in ("encode", "decode"):
        assert large[direction, "streamed"].forecast_bytes < 0.4 * large[direction, "whole"].forecast_bytes
        assert large[direction, "tiled"].forecast_bytes == small[direction, "tiled"].forecast_bytes


def planted(whole: float, streamed: float, tiled: float) -> list[Fit]:
    sizes = {"whole": whole, "streamed": streamed, "tiled": tiled}
    return [Fit("decode", mode, int(size * GIB), 8 * GIB) for mode, size in sizes.items()]


@pytest.mark.parametrize(
    ("sizes", "mode"),
    [((5, 2, 1), "whole"), ((9, 3, 1), "streamed"), ((40, 9, 1), "tiled"), ((99, 30, 9), "remote")],
)
def test_the_choice_and_its_reason(sizes: tuple[float, float, float], mode: str) -> None:
    chosen, reason = advise(planted(*sizes), "decode")
    assert chosen == mode and f"{sizes[0]:.1f} GB" in str(reason) and str(reason).endswith(".")


def test_a_card_that_is_filled_to_the_brim_fits_only_just() -> None:
    fits = will_it_fit(SD_V1, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")
    assert fits[0].fits and fits[0].tight, "published: 96 % of the card"
    mode, reason = advise(fits, "encode")
    assert mode == "streamed" and "leave nothing" in str(reason)
    assert not fits[2].tight


@pytest.mark.parametrize("model", [BUILTIN, FLUX, *(m for m in MODELS.values() if m.family == "sdxl")])
def test_every_model_has_a_forecast(model: object) -> None:
    for fit in will_it_fit(model, 512, 768, 8 * GIB):  # type: ignore[arg-type]
        assert fit.forecast_bytes > 0 and 0 < fit.percent < 100


def test_this_machine_s_own_forecast_has_no_published_figures() -> None:
    fits = Studio(Settings(device="cpu")).fits_here("sd-v1", 1024, 1024)
    assert len(fits) == 6 and all(f.published is None and f.forecast_bytes > 0 for f in fits)
    by_mode = {f.mode: f.forecast_bytes for f in fits if f.direction == "decode"}
    assert by_mode["streamed"] < 0.4 * by_mode["whole"]
    assert str(advise(fits, "decode")[1]).endswith(".")

from __future__ import annotations

import pytest

from backend.models import BUILTIN, FLUX, MODELS, SD_V1, SDXL, ModelSpec
from backend.placement.fit import Fit, advise, fits_here, will_it_fit
from backend.placement.learned import ExpectedCost
from backend.request import StageRequest
from backend.settings import Settings
from backend.studio import Studio

GIB = 2**30


def test_all_modes_both_ways_with_the_published_figures_beside() -> None:
    fits = will_it_fit(SD_V1, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")
    assert [(f.direction, f.mode) for f in fits] == [
        (d, m) for d in ("encode", "decode") for m in ("whole", "streamed", "tiled")
    ]
    whole = fits[0]
    assert whole.published is not None and whole.published.memory_percent == 96.054 and whole.seconds == 1.217
    assert fits[1].published is None and fits[1].seconds is None, "nobody has published streamed"
    oom = will_it_fit(SDXL, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")[0]
    assert oom.published is not None and oom.published.out_of_memory and oom.published_in_float32
    assert oom.verdict == "tight", "the app's VAE runs in half precision"
    as_published = will_it_fit(SDXL, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070", element_bytes=4)[0]
    assert as_published.verdict == "no" and not as_published.published_in_float32


def test_streamed_needs_less_than_whole_and_tiles_do_not_grow() -> None:
    small, large = (
        {(f.direction, f.mode): f for f in will_it_fit(SDXL, side, side, 24 * GIB)} for side in (1024, 4096)
    )
    for direction in ("encode", "decode"):
        assert large[direction, "streamed"].full_bytes < 0.4 * large[direction, "whole"].full_bytes
        assert large[direction, "tiled"].full_bytes == small[direction, "tiled"].full_bytes


def planted(whole: float, streamed: float, tiled: float) -> list[Fit]:
    sizes = {"whole": whole, "streamed": streamed, "tiled": tiled}
    return [Fit("decode", mode, int(size * GIB), int(size * GIB), 8 * GIB) for mode, size in sizes.items()]


@pytest.mark.parametrize(
    ("sizes", "mode"),
    [((5, 2, 1), "whole"), ((9, 3, 1), "streamed"), ((40, 9, 1), "tiled"), ((99, 30, 9), "remote")],
)
def test_the_choice_and_its_reason(sizes: tuple[float, float, float], mode: str) -> None:
    chosen, reason = advise(planted(*sizes), "decode")
    assert chosen == mode and f"{sizes[0]:g} GB" in str(reason) and str(reason).endswith(".")


def test_a_card_that_is_filled_to_the_brim_fits_only_just() -> None:
    fits = will_it_fit(SD_V1, 2048, 2048, 8 * GIB, "NVIDIA GeForce RTX 3070")
    assert fits[0].verdict == "tight", "published: 96 % of the card"
    assert fits[0].least_bytes < 0.961 * 8 * GIB < fits[0].full_bytes
    mode, reason = advise(fits, "encode")
    assert mode == "streamed" and str(reason).endswith(
        "the whole picture needs at least 5.2 GB, runs at full speed with 12 GB, and there are 8 GB."
    )
    assert fits[2].verdict == "yes"


def test_why_the_whole_picture_is_not_taken() -> None:
    def reason(least: float, full: float) -> str:
        whole = Fit("decode", "whole", int(least * GIB), int(full * GIB), 8 * GIB)
        return str(advise([whole, *planted(1, 1, 1)[1:]], "decode")[1])

    assert "needs at least 9 GB, and there are 8 GB" in reason(9, 20)
    assert "needs 9 GB, and there are 8 GB" in reason(9, 9)
    assert "takes 7 GB of 8 GB, which leaves little for the denoiser" in reason(3, 7)
    assert reason(3, 6) == "The whole picture fits: 6 GB of 8 GB."


def test_seconds_say_where_they_are_from() -> None:
    rtx = "NVIDIA GeForce RTX 3070"

    def sources(model: ModelSpec, side: int, gpu: str | None = rtx) -> list[str | None]:
        return [fit.seconds_from for fit in will_it_fit(model, side, side, 8 * GIB, gpu)]

    assert sources(SD_V1, 1024) == ["published", None, "published"] * 2
    assert sources(SD_V1, 768) == ["interpolated", None, "interpolated"] * 2
    assert sources(SDXL, 1024)[0] == "interpolated", "published in float32 only"
    assert sources(SD_V1, 1024, None) == [None] * 6

    def expect(request: StageRequest, mode: str) -> ExpectedCost:
        return ExpectedCost(4 * GIB, 2.0, 2.0 if mode == "whole" else None, 3 * GIB)

    here = fits_here(SD_V1, 512, 512, 8 * GIB, expect)
    assert [fit.seconds_from for fit in here[:3]] == ["here", "similar", "similar"]
    assert here[0].least_bytes == 3 * GIB and here[0].full_bytes == 4 * GIB


@pytest.mark.parametrize("model", [BUILTIN, FLUX, *(m for m in MODELS.values() if m.family == "sdxl")])
def test_every_model_has_a_forecast(model: object) -> None:
    for fit in will_it_fit(model, 512, 768, 8 * GIB):  # type: ignore[arg-type]
        assert 0 < fit.least_bytes <= fit.full_bytes < 8 * GIB and fit.verdict == "yes"


def test_this_machine_s_own_forecast_has_no_published_figures() -> None:
    fits = Studio(Settings(device="cpu")).fits_here("sd-v1", 1024, 1024)
    assert len(fits) == 6 and all(f.published is None and f.full_bytes > 0 for f in fits)
    by_mode = {f.mode: f.full_bytes for f in fits if f.direction == "decode"}
    assert by_mode["streamed"] < 0.4 * by_mode["whole"]
    assert str(advise(fits, "decode")[1]).endswith(".")

"""One composition has the same contours in every look."""

from dataclasses import replace

import numpy as np
import pytest

from training.painter.attributes import SEASONS, STYLES, TERRAINS, TIMES, WEATHERS, Attributes
from training.painter.canvas import Canvas
from training.painter.figures import FIGURES, FITTING
from training.painter.scenes import Composition, compose, paint, paint_composition, prepare, put_together

SKY = {"sun", "moon", "crescent"}  # by night the moon has the sun's place


def looks_of(terrain: str) -> list[Attributes]:
    """Every hour, season, weather and style at least once."""
    count = max(len(TIMES), len(WEATHERS), len(SEASONS), len(STYLES))
    return [
        Attributes(terrain, *(options[k % len(options)] for options in (TIMES, WEATHERS, SEASONS, STYLES)))
        for k in range(count)
    ]


def laid_out(composition: Composition, look: Attributes, seed: int) -> tuple[Canvas, np.ndarray]:
    canvas = prepare(Canvas, composition, look, np.random.default_rng(seed))
    return canvas, put_together(canvas, composition, look)


@pytest.mark.parametrize("terrain", TERRAINS)
def test_every_look_has_the_same_skyline_and_masks(terrain):
    looks = looks_of(terrain)
    for seed in range(2):
        subject = FITTING[terrain][seed]
        composition = compose(np.random.default_rng(seed), looks[0], subject)
        (first, skyline), *others = [laid_out(composition, look, n) for n, look in enumerate(looks)]
        for canvas, line in others:
            assert np.array_equal(line, skyline)
            assert np.array_equal(canvas.land, first.land)
            for thing in (canvas.parts & first.parts) - SKY:
                assert np.array_equal(canvas.shown(thing), first.shown(thing)), thing


def test_another_composition_has_other_contours():
    look = looks_of("mountains")[0]
    lines = [laid_out(compose(np.random.default_rng(seed), look), look, 0)[1] for seed in (1, 2)]
    assert not np.array_equal(*lines)


def test_chance_in_the_look_moves_no_contour():
    look = replace(looks_of("hills")[0], style="oil")
    composition = compose(np.random.default_rng(3), look)
    first, second = (paint_composition(composition, look, np.random.default_rng(n)) for n in (1, 2))
    assert np.array_equal(first.skyline, second.skyline)
    assert not np.array_equal(first.pixels, second.pixels)


def test_another_terrain_is_refused():
    hills, sea = looks_of("hills")[0], looks_of("sea")[0]
    with pytest.raises(ValueError, match="of hills, not of sea"):
        paint_composition(compose(np.random.default_rng(0), hills), sea, np.random.default_rng(0))


@pytest.mark.parametrize("thing", FIGURES)
def test_every_figure_shows_where_it_fits(thing):
    terrain = next(terrain for terrain, things in FITTING.items() if thing in things)
    rng = np.random.default_rng(5)
    painting = paint(rng, thing, terrain=terrain, weather="clear", style="flat", season="winter")
    assert thing in painting.attributes.things


def test_what_hangs_in_the_sky_is_no_skyline():
    look = replace(looks_of("sea")[0], weather="clear")
    empty, crowded = (compose(np.random.default_rng(4), look, subject) for subject in ("boat", "balloon"))
    canvas, line = laid_out(replace(crowded, seed=empty.seed), look, 0)
    above = canvas.shown("balloon") & (np.arange(256)[:, None] < line)
    assert above.any()
    assert (canvas.land[above] <= 0.5).all()

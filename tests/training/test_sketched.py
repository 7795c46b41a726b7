"""Sketches by many hands."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.training.test_composition import looks_of
from training.measures import NEAR_IDENTICAL, closest_pair
from training.painter.scenes import compose, paint, paint_composition
from training.painter.signs import SIGNS, Sign, crayons
from training.painter.sketched import Hand, draw, posterised, simplified, some_hand

EXACT = Hand(
    tolerance=2.0,
    wobble=0.3,
    spread=0.05,
    saturation=1.0,
    careless=0.0,
    childish=0.0,
    filled=1.0,
    few=None,
    outline=0,
    ink=(0, 0, 0),
    wrong=0.0,
    soft=0.0,
    uneven=0.0,
)


def test_a_sketch_keeps_the_contours():
    look = looks_of("mountains")[0]
    for seed in range(3):
        composition = compose(np.random.default_rng(seed), look, "tree")
        painting = paint_composition(composition, look, np.random.default_rng(1))
        pixels, skyline = draw(composition, look, np.random.default_rng(2), EXACT)
        assert pixels.shape == (256, 256, 3)
        assert pixels.dtype == np.uint8
        assert np.abs(skyline - painting.skyline).mean() < 3


def test_a_sketch_has_few_colours():
    look = looks_of("hills")[0]
    composition = compose(np.random.default_rng(1), look, "house")
    pixels, _ = draw(composition, look, np.random.default_rng(0), replace(EXACT, few=6, outline=3))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 7


def test_hands_differ():
    look = looks_of("hills")[0]
    composition = compose(np.random.default_rng(1), look, "house")
    drawn = [draw(composition, look, np.random.default_rng(n))[0] for n in range(4)]
    assert closest_pair(np.stack(drawn)) > NEAR_IDENTICAL / 2
    hands = [some_hand(np.random.default_rng(n)) for n in range(200)]
    assert 0.3 < np.mean([hand.tolerance <= 3 for hand in hands]) < 0.8
    assert {hand.outline > 0 for hand in hands} == {hand.few is None for hand in hands} == {True, False}


def test_a_childish_hand_draws_signs():
    look = replace(looks_of("hills")[0], season="winter")
    composition = compose(np.random.default_rng(1), look, "snowman")
    plain, sign = (
        draw(composition, look, np.random.default_rng(2), replace(EXACT, childish=childish))[0]
        for childish in (0.0, 1.0)
    )
    assert (plain != sign).any(-1).mean() > 0.002


def test_a_careless_hand_leaves_things_out():
    look = looks_of("forest")[0]
    composition = compose(np.random.default_rng(3), look, "fence")
    drawn = [
        draw(composition, look, np.random.default_rng(n), replace(EXACT, careless=1.0))[0] for n in range(4)
    ]
    full, _ = draw(composition, look, np.random.default_rng(0), EXACT)
    assert any((np.abs(one.astype(int) - full).sum(-1) > 60).mean() > 0.05 for one in drawn)


@pytest.mark.parametrize("name", SIGNS)
def test_every_sign_leaves_a_mark(name):
    sheet = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
    box = crayons(np.random.default_rng(0), (0, 0, 0), 2)
    SIGNS[name](Sign(ImageDraw.Draw(sheet), box, 128, 200, 80))
    assert (np.asarray(sheet)[..., 3] > 0).mean() > 0.003


def test_a_simplified_line_is_within_its_tolerance():
    line = np.cumsum(np.random.default_rng(0).normal(0, 1, 256))
    rough = simplified(line, 4.0)
    assert np.abs(rough - line).max() < 4
    assert (np.abs(np.diff(rough, 2)) > 1e-3).sum() < 60


def test_a_tracing_is_of_few_colours():
    picture = paint(np.random.default_rng(0), style="digital").pixels
    traced = posterised(picture, np.random.default_rng(0), EXACT)
    before, after = (len(np.unique(one.reshape(-1, 3), axis=0)) for one in (picture, traced))
    assert after < 40 < before / 20

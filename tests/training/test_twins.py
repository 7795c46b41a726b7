"""Groups of twins, and captions that name what tells them apart."""

from dataclasses import replace

import numpy as np

from training.painter.attributes import Attributes
from training.painter.generic import paint_generic
from training.twins import GROUP, Twin, captions_of, needed, picture_twin, plan, said

DAY = Twin("painting", Attributes("hills", "day", "clear", "summer", "photo"))


def test_a_group_is_of_one_composition():
    for seed in range(20):
        group = plan(np.random.default_rng(seed))
        first, second, third = group.painted
        assert first.time != second.time
        assert first.style != third.style
        assert {look.terrain for look in (*group.painted, *group.sketched)} == {group.composition.terrain}


def test_a_snowman_stands_in_winter():
    groups = [plan(np.random.default_rng(seed)) for seed in range(400)]
    snowmen = [group for group in groups if group.composition.subject == "snowman"]
    assert snowmen
    assert {look.season for group in snowmen for look in (*group.painted, *group.sketched)} == {"winter"}


def test_the_caption_must_name_what_differs():
    night = Twin("painting", Attributes("hills", "night", "clear", "winter", "oil"))
    sketch = Twin("sketch", DAY.attributes)
    assert needed(DAY, night) == {"time", "season", "style"}
    assert needed(sketch, DAY) == set()
    assert needed(sketch, night) == {"time", "season"}
    assert needed(sketch, replace(DAY, attributes=replace(DAY.attributes, style="pencil"))) == {"style"}


def test_nothing_is_needed_that_cannot_be_seen():
    sea = [
        Twin("painting", Attributes("sea", "day", "clear", season, "oil")) for season in ("summer", "winter")
    ]
    assert needed(*sea) == set()


def test_half_the_captions_name_everything():
    one = Attributes("forest", "dusk", "fog", "autumn", "oil", ("person",))
    texts = captions_of(one, np.random.default_rng(0), 8)
    assert len(texts) == 8
    assert sum(set(said(text, one)) == {"time", "season", "weather", "style"} for text in texts) >= 4


def test_a_picture_of_no_landscape_comes_with_its_stylised_selves():
    rng = np.random.default_rng(0)
    picture = paint_generic(rng)
    made = [picture_twin(rng, picture, ("oil", "pencil"), place, 2) for place in range(GROUP)]
    assert [twin.attributes.style for _, twin in made] == ["photo", "oil", "pencil", "photo", "photo"]
    assert np.array_equal(made[0][0], picture)
    assert made[2][0].astype(float).std(-1).mean() < 5  # pencil is grey
    assert not any("landscape" in text for _, twin in made[1:3] for text in twin.captions)

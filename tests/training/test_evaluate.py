"""What the evaluation asks of img2img, and the network that recognises things."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.compare import guided_rows, sketches, text_rows
from training.evaluate import Amounts, Measured
from training.evaluate_img2img import Contradiction, contradiction, layout_cases, prompt_for, seen
from training.judge import PHOTO_LESSONS, agreement, train_photo_judge
from training.painter.attributes import CHOICES, Attributes
from training.progress import Progress
from training.recogniser import (
    LABELS,
    NOTHING,
    RECOGNISER_LESSONS,
    SIDE,
    cut_out,
    examples,
    overlap,
    scene_with,
    train_recogniser,
)


def test_a_contradiction_is_of_a_summer_s_day():
    cases = [contradiction(number, drawn=number % 2 == 0) for number in range(6)]
    assert {name for case in cases for name in case.differs} == {"time", "season", "style"}
    for case in cases:
        assert case.given.shape == (256, 256, 3)
        for name, plain in (("time", "day"), ("season", "summer")):
            assert (getattr(case.wanted, name) != plain) == (name in case.differs)


def test_only_what_is_contradicted_counts():
    wanted = Attributes("hills", "night", "clear", "summer", "oil")
    given = np.zeros((256, 256, 3), np.uint8)

    class Fixed(torch.nn.Module):
        def forward(self, image):
            night = {name: torch.zeros(len(image), len(options)) for name, options in CHOICES.items()}
            night["time"][:, CHOICES["time"].index("night")] = 1.0
            return night

    cases = [
        Contradiction(given, wanted, ("time",)),
        Contradiction(given, replace(wanted, time="dusk"), ("time",)),
    ]
    assert seen(Fixed(), np.stack([given, given]), cases) == 0.5


def test_a_thing_is_named_in_the_prompt():
    wanted = Attributes("hills", "day", "clear", "winter", "oil")
    assert prompt_for(wanted, "snowman").startswith(
        "an oil painting of rolling hills with a snowman in winter"
    )


def test_layout_is_measured_on_all_drawn_sketches():
    assert len(layout_cases(2)) == 8


def test_the_box_is_around_the_thing():
    painting = scene_with(np.random.default_rng(3), "windmill", style="flat", time="day", weather="clear")
    left, top, right, bottom = painting.places["windmill"]
    assert 0 <= left < right <= 256
    assert 40 < bottom - top <= 200
    view = cut_out(painting.pixels, (left, top, right, bottom))
    assert view.shape == (3, SIDE, SIDE)
    assert view.abs().max() <= 1


def test_examples_are_of_things_and_of_nothing():
    pictures, boxes, labels = examples(24, 5)
    assert len(pictures) == len(boxes) == len(labels) == 24
    assert NOTHING in labels
    assert len(set(labels)) > 10


def test_overlap():
    assert overlap((0, 0, 10, 10), (5, 5, 15, 15)) == 0.25
    assert overlap((0, 0, 5, 5), (5, 5, 15, 15)) == 0


def test_the_recogniser_learns_and_is_kept(tmp_path, monkeypatch):
    """Two colours for two labels: more than this a tiny lesson cannot show."""

    def coloured(count, seed):
        rng = np.random.default_rng(seed)
        labels = [LABELS[int(k)] for k in rng.integers(0, 2, count)]
        pictures = [np.full((64, 64, 3), 60 if label == LABELS[0] else 200, np.uint8) for label in labels]
        return pictures, [(0, 0, 64, 64)] * count, labels

    monkeypatch.setattr("training.recogniser.examples", coloured)
    lessons = replace(RECOGNISER_LESSONS, pictures=16, epochs=12, batch=8)
    network = train_recogniser(tmp_path, lessons)
    pictures, boxes, labels = coloured(8, 99)
    assert network.names(pictures, boxes) == labels
    assert train_recogniser(tmp_path, lessons).names(pictures, boxes) == labels


def test_the_judge_of_photographs_learns_style_alone(tmp_path, monkeypatch):
    shades = {style: 30 * place + 20 for place, style in enumerate(CHOICES["style"])}

    def shaded(rng, picture, style):
        return np.full_like(picture, shades[style])

    monkeypatch.setattr(
        "training.judge.original", lambda rng, photos: np.full((256, 256, 3), shades["photo"], np.uint8)
    )
    monkeypatch.setattr("training.judge.stylised", shaded)
    monkeypatch.setattr("training.judge.training_photos", list)
    lessons = replace(PHOTO_LESSONS, pictures=56, epochs=30, batch=28)
    judge = train_photo_judge(tmp_path, lessons)
    styles = ("photo", CHOICES["style"][-1])
    wanted = [Attributes("", "", "", "", style) for style in styles]
    pictures = np.stack([np.full((256, 256, 3), shades[style], np.uint8) for style in styles])
    assert agreement(judge, pictures, wanted) == {"style": 1.0, "all": 1.0}
    assert agreement(train_photo_judge(tmp_path, lessons), pictures, wanted)["style"] == 1.0


def test_two_models_are_compared_row_by_row():
    class Still:
        """Returns its own colour."""

        def __init__(self, colour):
            self.colour = colour

        def from_image(self, image, prompts, seeds, strength):
            return [Image.new("RGB", image.size, self.colour)]

        def from_text(self, prompts, seeds):
            return [Image.new("RGB", (8, 8), self.colour)] * len(prompts)

    starts = sketches()
    assert len(starts) == 12
    rows = guided_rows([Still("red"), Still("blue")], starts[:2], Progress("compare", silent=True))
    assert [row[1].getpixel((0, 0)) for row in rows] == [(255, 0, 0), (0, 0, 255)] * 2
    assert [len(row) for row in rows] == [7] * 4
    assert [len(row) for row in text_rows([Still("red"), Still("blue")])] == [6] * 4


def test_rows_are_measured_by_name(tmp_path):
    measured = Measured(None, tmp_path, Amounts(), share=0.01)
    assert measured.taught(RECOGNISER_LESSONS).pictures == 30
    with pytest.raises(ValueError, match="no such rows: beauty; there are words, photographs"):
        measured.part("beauty")

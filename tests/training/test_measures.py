"""The measures behind the evaluation's table, and the networks that measure with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.evaluate import fill_card
from training.evaluate_img2img import prompt_for
from training.judge import agreement, targets_of
from training.measures import NEAR_IDENTICAL, blotches, closest_pair, colour_drift, kernel_distance, psnr
from training.painter.attributes import CHOICES, TERRAINS, Attributes
from training.painter.scenes import paint
from training.rows import Row, table
from training.skyline import READER_LESSONS, correlation, land_of, train_reader


class TestMeasures:
    def test_psnr_of_a_known_error(self):
        dark = np.zeros((1, 8, 8, 3), np.uint8)
        assert psnr(dark + np.uint8(255), dark)[0] == pytest.approx(0)
        assert psnr(dark + np.uint8(51), dark)[0] == pytest.approx(13.98, abs=0.01)

    def test_drift_sees_a_tint_and_not_a_blur(self):
        picture = np.random.default_rng(0).integers(60, 190, (64, 64, 3)).astype(np.uint8)
        blocks = picture.reshape(4, 16, 4, 16, 3).mean((1, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        assert colour_drift(blocks, picture) < 0.5
        assert colour_drift((picture * np.array([1.2, 1, 0.8])).astype(np.uint8), picture) > 5

    def test_the_painter_knows_where_its_sky_ends(self):
        """In flat style without weather, the last row of sky and the first of land differ in colour."""
        painting = paint(
            np.random.default_rng(3), style="flat", terrain="mountains", weather="clear", time="day"
        )
        line = painting.skyline
        assert line.shape == (256,)
        assert 20 < line.min() < line.max() < 200
        above, below = (painting.pixels[line + step, np.arange(256)].astype(int) for step in (-3, 3))
        assert (np.abs(above - below).sum(1) > 20).mean() > 0.9

    def test_land_lies_under_the_skyline(self):
        land = land_of(np.full((1, 256), 128))
        assert land.shape == (1, 64, 64)
        assert land[0, :32].sum() == 0
        assert land[0, 32:].min() == 1

    def test_a_reader_learns_a_plain_skyline_and_is_kept(self, tmp_path, monkeypatch):
        def plain(count, seed):
            rng = np.random.default_rng(seed)
            lines = 128 + rng.uniform(30, 60, (count, 1)) * np.sin(
                np.arange(256) / 40 + rng.uniform(0, 6, (count, 1))
            )
            under = np.arange(256)[None, :, None] >= lines[:, None]
            pixels = np.where(under[..., None], (90, 80, 70), (150, 200, 235)).astype(np.uint8)
            return pixels, lines

        monkeypatch.setattr("training.skyline.shown", plain)
        settings = replace(READER_LESSONS, pictures=16, epochs=15, batch=4)
        reader = train_reader(tmp_path, settings)
        pictures, lines = plain(4, 99)
        for found, true in zip(reader.read(pictures), lines.reshape(4, 64, 4).mean(2) / 4, strict=True):
            assert correlation(found, true) > 0.9
        assert np.allclose(train_reader(tmp_path, settings).read(pictures), reader.read(pictures))

    def test_blotches_are_seen_and_grain_and_gradients_are_not(self):
        rng = np.random.default_rng(0)
        sky = np.repeat(np.linspace(150, 220, 256)[:, None], 256, 1)
        spots = np.asarray(Image.fromarray(rng.normal(0, 60, (24, 24)).astype(np.float32)).resize((256, 256)))
        level = np.full(64, 60.0)

        def found(grey: np.ndarray) -> float:
            picture = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, -1)
            return blotches(picture, level)

        assert found(sky) < 0.5
        assert found(sky + rng.normal(0, 3, sky.shape)) < 1.5
        assert found(sky + spots * 0.5) > 4
        assert blotches(np.zeros((256, 256, 3), np.uint8), np.full(64, 2.0)) is None

    def test_the_kernel_distance_tells_sets_apart(self):
        rng = np.random.default_rng(0)
        one, same, other = (rng.normal(mean, 1, (60, 16)) for mean in (0, 0, 0.7))
        assert abs(kernel_distance(one, same)) < 0.2
        assert kernel_distance(one, other) > 5 * abs(kernel_distance(one, same))

    def test_a_level_skyline_has_no_correlation(self):
        assert correlation(np.arange(64.0), np.full(64, 30.0)) is None
        assert correlation(np.full(64, 30.0), np.arange(64.0)) == 0

    def test_twins_are_found(self):
        pictures = [paint(np.random.default_rng(seed)).pixels for seed in range(3)]
        assert closest_pair(np.stack(pictures)) > NEAR_IDENTICAL
        assert closest_pair(np.stack([*pictures, pictures[1]])) == 0

    def test_the_judge_is_not_asked_what_cannot_be_seen(self):
        targets = targets_of([Attributes("sea", "day", "fog", "winter", "pencil")])
        assert targets["season"].item() == targets["time"].item() == -100
        assert targets["terrain"].item() == TERRAINS.index("sea")

    def test_agreement_counts_what_the_judge_sees(self):
        class Fixed(torch.nn.Module):
            def forward(self, image):
                return {name: torch.eye(len(o))[:1].expand(len(image), -1) for name, o in CHOICES.items()}

        right = Attributes("mountains", "day", "clear", "spring", "photo")
        wrong = replace(right, time="night")
        shares = agreement(Fixed(), np.zeros((2, 32, 32, 3), np.uint8), [right, wrong])
        assert shares["terrain"] == 1
        assert shares["time"] == 0.5
        assert shares["all"] == pytest.approx(0.9)

    def test_prompts_say_everything_that_is_judged(self):
        words = prompt_for(Attributes("forest", "dusk", "fog", "autumn", "oil"))
        assert words == "an oil painting of a forest in autumn at dusk in the fog"
        assert "summer" not in prompt_for(Attributes("sea", "day", "clear", "summer", "photo"))

    def test_the_table_says_what_is_missed(self):
        text = table([Row("weights", "21 MB", "≤ 40 MB", True), Row("VAE", "30 dB", "≥ 32 dB", False)])
        assert "| weights | 21 MB | ≤ 40 MB | met |" in text
        assert text.endswith("**missed** |")

    def test_the_card_takes_the_table(self, tmp_path):
        card = tmp_path / "README.md"
        card.write_text("# Model\n<!-- figures -->\nold\n<!-- /figures -->\nData\n")
        fill_card(card, "| new |")
        assert card.read_text() == "# Model\n<!-- figures -->\n| new |\n<!-- /figures -->\nData\n"
        card.write_text("# Model")
        with pytest.raises(ValueError, match="no place for the figures"):
            fill_card(card, "| new |")

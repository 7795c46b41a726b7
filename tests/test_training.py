"""How the built-in model is made: the painter, its captions, the tokenizer, a tiny training run, the
measures.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image

from backend.job import SCHEDULERS
from backend.models import BUILTIN, BUILTIN_FOLDER
from training import photos
from training.data import Pictures, heldout_paintings, paint_all, paint_numbered, picture_rng
from training.denoiser import new_scheduler, new_unet, start_from
from training.painter import captions
from training.painter.attributes import CHOICES, STYLES, TERRAINS, Attributes
from training.painter.captions import SINGLE, THINGS, describe
from training.painter.figures import FIGURES
from training.painter.generic import KINDS, paint_generic
from training.painter.scenes import choose, paint
from training.photos import HELD_OUT, TRAINING_PHOTOS
from training.preview import fit
from training.process_group import ProcessGroup
from training.progress import clock
from training.settings import Budget, DataSettings, DenoiserSettings, Recipe, Run, VaeSettings
from training.sketches import DRAWN, sketch
from training.trainer import Muon, Trainer
from ui.looks import EXAMPLES, LOOKS, example_of

TINY = Recipe(
    data=DataSettings(scenes=10, generic=5, heldout=5, shard=5, captions=2),
    vae=VaeSettings(
        channels=(24, 24, 24, 24),
        crops=((0.0, 64, 1),),
        budget=Budget(0, steps=2),
        decoder_budget=Budget(0, steps=1),
        denoised_share=1.0,
    ),
    denoiser=DenoiserSettings(
        channels=(32, 32), text_width=32, text_heads=2, budget=Budget(0, steps=3), half_batch=4, batch=4
    ),
    save_every=0.0,
)


class TestPainter:
    def test_a_seed_paints_the_same_picture_twice(self):
        first, second = (paint(np.random.default_rng(7)) for _ in range(2))
        assert first.attributes == second.attributes
        assert np.array_equal(first.pixels, second.pixels)
        assert not np.array_equal(first.pixels, paint(np.random.default_rng(8)).pixels)

    @pytest.mark.parametrize("terrain", TERRAINS)
    def test_requested_attributes_are_painted(self, terrain):
        painting = paint(np.random.default_rng(1), terrain=terrain, time="night", style="oil")
        assert painting.pixels.shape == (256, 256, 3)
        assert painting.pixels.dtype == np.uint8
        attributes = painting.attributes
        assert (attributes.terrain, attributes.time, attributes.style) == (terrain, "night", "oil")

    @pytest.mark.parametrize("style", STYLES)
    def test_every_style_leaves_a_picture(self, style):
        pixels = paint(np.random.default_rng(2), style=style, time="day", weather="clear").pixels
        assert pixels.std() > 10

    def test_night_is_darker_than_day(self):
        means = {
            time: np.mean(
                [paint(np.random.default_rng(s), time=time, style="photo").pixels for s in range(3)]
            )
            for time in ("day", "night")
        }
        assert means["night"] < means["day"] / 2

    def test_unknown_attributes_are_refused(self):
        with pytest.raises(ValueError, match="no such attribute: mood"):
            choose(np.random.default_rng(0), mood="merry")
        with pytest.raises(ValueError, match="time is one of day"):
            choose(np.random.default_rng(0), time="noon")

    def test_chance_reaches_every_choice(self):
        drawn = [choose(np.random.default_rng(seed)) for seed in range(400)]
        for name, options in CHOICES.items():
            assert {getattr(attributes, name) for attributes in drawn} == set(options)

    def test_generic_pictures_of_every_kind(self):
        for kind in KINDS:
            pixels = kind(np.random.default_rng(3))
            assert pixels.shape == (256, 256, 3)
            assert np.isfinite(pixels).all()
        assert np.array_equal(
            paint_generic(np.random.default_rng(5)), paint_generic(np.random.default_rng(5))
        )


class TestCaptions:
    def test_everything_painted_has_words(self):
        painted = {
            thing for seed in range(60) for thing in paint(np.random.default_rng(seed)).attributes.things
        }
        assert painted <= set(THINGS)
        assert set(FIGURES) | set(SINGLE) <= set(THINGS)

    def test_a_noun_may_stand_alone(self):
        attributes = Attributes("hills", "day", "clear", "summer", "photo", ("snowman",))
        rng = np.random.default_rng(0)
        assert "snowman" in {describe(attributes, rng) for _ in range(100)}

    def test_the_season_is_not_said_where_it_does_not_show(self):
        attributes = Attributes("sea", "day", "clear", "winter", "oil")
        rng = np.random.default_rng(0)
        assert not any("winter" in describe(attributes, rng) for _ in range(100))

    def test_what_is_shown_is_said_in_time(self):
        attributes = Attributes("forest", "night", "storm", "autumn", "pencil", ("castle",))
        rng = np.random.default_rng(0)
        said = " | ".join(describe(attributes, rng).lower() for _ in range(60))
        for word in ("forest", "night", "storm", "pencil", "castle"):
            assert word in said


class TestData:
    def test_heldout_seeds_are_apart(self):
        draws = {split: picture_rng(4, split, 0).random() for split in ("scenes", "heldout", "generic")}
        assert len(set(draws.values())) == 3

    def test_a_missing_shard_is_painted_again(self, tmp_path):
        paint_all(TINY.data, tmp_path, workers=1)
        pictures = Pictures(tmp_path, "scenes")
        assert len(pictures) == 10
        before = np.array(pictures[7])
        assert np.array_equal(before, paint_numbered(TINY.data, "scenes", 7)[0])
        (tmp_path / "scenes" / "00001.npy").unlink()
        paint_all(TINY.data, tmp_path, workers=1)
        again = Pictures(tmp_path, "scenes")
        assert np.array_equal(again[7], before)
        assert [twin.kind for twin in again.records()] == 2 * (["painting"] * 3 + ["sketch"] * 2)

    def test_no_pictures_is_said(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="paint them first"):
            Pictures(tmp_path, "scenes")


def line_trainer(folder: Path, steps: int, die_at: int | None = None) -> torch.nn.Module:
    """Fit a line; with `die_at`, a kill in the middle of that step."""
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3)
    trainer = Trainer(
        stage="line",
        processes=ProcessGroup(),
        device="cpu",
        modules={"line": module},
        optimisers=[torch.optim.AdamW([module.bias], 0.01), Muon([module.weight], 0.01, ProcessGroup())],
        budget=Budget(0, steps=steps),
        checkpoint=folder / "line.pt",
        ema=0.9,
        seed=1,
        save_every=0.0,
    )

    def loss_of(share, rng):
        if trainer.step == die_at:
            raise KeyboardInterrupt
        wanted = torch.from_numpy(rng.random((8, 3), np.float32))
        loss = (module(torch.rand(8, 4)) - wanted).square().mean()
        return loss, {"loss": loss.item()}, 8

    trainer.run(loss_of, lambda share: 1 - share)
    return module


class TestTrainer:
    def test_a_killed_run_ends_where_an_unbroken_one_does(self, tmp_path):
        (tmp_path / "unbroken").mkdir()
        (tmp_path / "killed").mkdir()
        unbroken = line_trainer(tmp_path / "unbroken", 9)
        with pytest.raises(KeyboardInterrupt):
            line_trainer(tmp_path / "killed", 9, die_at=5)
        resumed = line_trainer(tmp_path / "killed", 9)
        assert torch.equal(unbroken.weight, resumed.weight)
        assert torch.equal(unbroken.bias, resumed.bias)

    def test_muon_makes_updates_orthogonal(self):
        weight = torch.nn.Parameter(torch.zeros(6, 16))
        weight.grad = torch.randn(6, 16)
        optimiser = Muon([weight], 1.0, ProcessGroup(), decay=0.0)
        optimiser.step()
        singular = torch.linalg.svdvals(weight.detach()) / (0.2 * 16**0.5)
        assert singular.min() > 0.5
        assert singular.max() < 1.3

    def test_clock(self):
        assert [clock(s) for s in (4, 75, 7380)] == ["4 s", "1:15", "2:03:00"]


class TestStart:
    SMALL = replace(TINY.denoiser, channels=(32, 64))
    DEEPER = replace(TINY.denoiser, channels=(32, 32, 64))

    def test_a_smaller_unet_becomes_the_inner_levels(self):
        small, deeper = new_unet(self.SMALL), new_unet(self.DEEPER)
        start_from(deeper, small)
        mine, theirs = deeper.state_dict(), small.state_dict()
        for name, value in theirs.items():
            if name.startswith("down_blocks."):
                name = f"down_blocks.{int(name[12]) + 1}{name[13:]}"
            assert torch.equal(mine[name], value) or name.startswith("conv_out"), name

    def test_noise_comes_down_as_strong_as_it_was(self):
        deeper = new_unet(self.DEEPER)
        start_from(deeper, new_unet(self.SMALL))
        noise = torch.randn(1, 32, 64, 64)
        assert deeper.down_blocks[0].downsamplers[0](noise).detach().std() == pytest.approx(1, abs=0.03)

    def test_another_shape_is_refused(self):
        with pytest.raises(RuntimeError):
            start_from(new_unet(self.SMALL), new_unet(replace(self.DEEPER, channels=(32, 64, 64, 64))))


class TestSchedule:
    def test_a_strength_keeps_as_much_signal_as_sd_s_own(self):
        usual = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        ours = new_scheduler().alphas_cumprod.sqrt()
        assert (ours - usual.alphas_cumprod.sqrt())[:800].abs().max() < 0.07

    def test_the_shipped_model_has_it(self):
        shipped = DDIMScheduler.from_pretrained(BUILTIN_FOLDER / "scheduler")
        assert torch.equal(shipped.alphas_cumprod, new_scheduler().alphas_cumprod)

    def test_the_last_step_has_no_signal(self):
        assert new_scheduler().alphas_cumprod[-1] == 0

    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_every_scheduler_of_the_page_can_take_it(self, name):
        kind = getattr(diffusers, SCHEDULERS[name])
        scheduler = kind.from_config(new_scheduler().config)
        scheduler.set_timesteps(8)
        latents = torch.randn(1, 4, 8, 8) * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            told = scheduler.scale_model_input(latents, time)
            latents = scheduler.step(-told, time, latents).prev_sample
        assert latents.isfinite().all()


def test_the_look_between_steps_was_fitted_to_the_shipped_weights():
    vae = AutoencoderKL.from_pretrained(BUILTIN_FOLDER / "vae").float().eval()
    rows, explained = fit(vae, heldout_paintings(12))
    assert explained > 0.95
    assert np.abs(rows - np.array(BUILTIN.preview)).max() < 0.08


class TestPhotos:
    def test_no_photograph_binds_its_users(self):
        assert {photo.licence for photo in TRAINING_PHOTOS} <= {"CC0", "public domain", "CC BY 4.0"}
        assert not set(HELD_OUT) & {photo.name for photo in TRAINING_PHOTOS}

    def test_the_card_names_each_with_its_author(self):
        card = (BUILTIN_FOLDER / "README.md").read_text()
        for photo in TRAINING_PHOTOS:
            assert f"| {photo.name} | {photo.licence} | {photo.author} |" in card

    def test_a_view_is_a_square_part(self):
        photo = np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8)
        for seed in range(5):
            view = photos.random_view(np.random.default_rng(seed), photo, 256)
            assert view.shape == (256, 256, 3) and view.dtype == np.uint8

    def test_what_is_not_installed_is_named_and_left_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr(photos, "BACKGROUNDS", tmp_path)
        without = photos.training_photos()
        missing = photos.missing_photos()
        assert len(without) + len(missing) == len(TRAINING_PHOTOS) and missing
        Image.new("RGB", (3000, 2000)).save(tmp_path / missing[0])
        assert photos.training_photos()[len(without)].shape == (1024, 1536, 3)
        assert photos.missing_photos() == missing[1:]


class TestSketches:
    @pytest.mark.parametrize("name", DRAWN)
    def test_sketches_are_drawn(self, name):
        image = sketch(name)
        assert image.size == (256, 256)
        assert len(image.getcolors()) >= 3


def test_the_page_offers_the_built_in_model_only_words_of_its_captions():
    known = set(
        re.findall(r"\w+", json.dumps([vars(captions)[name] for name in vars(captions) if name.isupper()]))
    )
    offered = [*LOOKS.values(), *(example_of("builtin", name).prompt for name in EXAMPLES)]
    assert not {word for text in offered for word in re.findall(r"\w+", text)} - known


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run of the recipe on a few pictures and steps."""
    from training.__main__ import make

    folder = tmp_path_factory.mktemp("training")
    run = Run(folder / "work", workers=1)
    stages = ("paint", "vae", "latents", "tokenizer", "denoiser", "decoder", "export")
    make(run, TINY, folder / "model", stages)
    return run, folder / "model"


class TestWholeRun:
    def test_the_export_loads_and_paints(self, made):
        from training.report import Painter

        _, model = made
        painter = Painter(model)
        assert painter.image.vae.config.scaling_factor != 0.18215
        picture = painter.from_image(sketch("boat"), ["a boat at sunset"], [1], steps=2)[0]
        assert picture.size == (256, 256)
        assert painter.from_text(["a castle"], [1], size=64, steps=1)[0].size == (64, 64)

    def test_the_export_names_no_place_of_origin(self, made):
        run, model = made
        for config in model.rglob("*.json"):
            assert str(run.work) not in config.read_text()

    def test_a_longer_budget_continues(self, made, capsys):
        from training.__main__ import make

        run, model = made
        longer = replace(TINY, denoiser=replace(TINY.denoiser, budget=Budget(0, steps=4)))
        make(run, longer, model, ("denoiser",))
        assert "denoiser: continuing at step 3" in capsys.readouterr().out
        assert json.loads((run.work / "denoiser" / "facts.json").read_text())["step"] == 4

    def test_training_starts_with_a_finished_model(self, made, tmp_path):
        """No steps: what is saved is what the run began with."""
        from diffusers import UNet2DConditionModel

        from training.__main__ import make

        _, model = made
        still = Budget(0, steps=0)
        recipe = replace(
            TINY, vae=replace(TINY.vae, budget=still), denoiser=replace(TINY.denoiser, budget=still)
        )
        fresh = Run(tmp_path, workers=1, start=model)
        make(fresh, recipe, tmp_path / "model", ("paint", "vae", "latents", "tokenizer", "denoiser"))
        for kind, before, after in (
            (AutoencoderKL, model / "vae", tmp_path / "vae"),
            (UNet2DConditionModel, model / "unet", tmp_path / "denoiser" / "unet"),
        ):
            wanted = kind.from_pretrained(before).state_dict()
            for name, value in kind.from_pretrained(after).state_dict().items():
                assert torch.equal(value.float(), wanted[name].float()), name

    def test_decoder_training_leaves_the_latents_alone(self, made):
        run, model = made
        trained = torch.load(run.work / "vae.pt", weights_only=True)["averages"]["vae"]
        shipped = AutoencoderKL.from_pretrained(model / "vae").state_dict()
        for name, value in trained.items():
            if name.startswith(("encoder.", "quant_conv.")):
                assert torch.allclose(value, shipped[name].float(), atol=2e-3), name

    def test_any_prompt_has_tokens(self, made):
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(made[1] / "tokenizer")
        for prompt in ("a castle", "Schloß über dem Fluß", "山の絵", "!!! ~ 🙂"):
            ids = tokenizer(prompt, truncation=True, max_length=32).input_ids
            assert len(ids) > 2
            assert tokenizer.unk_token_id not in ids[1:-1]
        ids = tokenizer("A castle, at sunset").input_ids
        assert tokenizer.decode(ids[1:-1]).split() == ["a", "castle", ",", "at", "sunset"]

"""What the denoiser learns from: img2img's own noise, captions that fit, batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from backend.models import BUILTIN_FOLDER
from training.data import paint_all
from training.denoiser import Practice, new_scheduler, noised
from training.latents import latents_path
from training.samples import Lessons, starting_noise
from training.settings import DataSettings, DenoiserSettings, TwinSettings
from training.twins import GROUP, needed

SETTINGS = DenoiserSettings(batch=32, half_batch=32, large_batch=8)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory):
    """Two groups of scenes and one of another kind, with latents by chance."""
    folder = tmp_path_factory.mktemp("lessons")
    paint_all(DataSettings(scenes=10, generic=5, heldout=0, shard=5, captions=4), folder, workers=1)
    for split, index in (("scenes", 0), ("scenes", 1), ("generic", 0)):
        path = latents_path(folder, split, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(index).normal(0, 1, (5, 4, 16, 16)).astype(np.float16))
    return Lessons(folder, CLIPTokenizer.from_pretrained(BUILTIN_FOLDER / "tokenizer"), 32)


def practice(lessons: Lessons, begun: bool = True, **changes) -> Practice:
    settings = replace(SETTINGS, **changes)
    return Practice(lessons, settings, torch.zeros(32, dtype=torch.long), 1.0, begun=begun)


def test_deterministic_img2img_ends_at_the_twin():
    """With the v that twins teach, DDIM goes from the given latents, noised, to the wanted ones."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(20)
    kept = scheduler.alphas_cumprod
    torch.manual_seed(0)
    given, wanted, noise = torch.randn(3, 1, 4, 8, 8)
    times = scheduler.timesteps[8:]  # strength 0.6
    start = kept[times[:1]]
    bent = starting_noise(noise, given, wanted, start)
    latents = start.sqrt() * given + (1 - start).sqrt() * noise
    for time in times:
        _, v = noised(wanted, bent, time[None], kept)
        latents = scheduler.step(v, time, latents, eta=0.0).prev_sample
    assert torch.allclose(latents, wanted, atol=1e-3)


def test_a_plain_sample_has_plain_noise():
    given, wanted, noise = torch.randn(3, 2, 4, 8, 8)
    assert torch.equal(starting_noise(noise, given, wanted, torch.zeros(2)), noise)


def test_a_twin_s_caption_names_what_differs(lessons):
    rng = np.random.default_rng(0)
    settings = TwinSettings()
    for _ in range(60):
        one = lessons.draw(rng, True, settings)
        given, wanted = lessons.records[one.given], lessons.records[one.wanted]
        assert one.wanted // GROUP == one.given // GROUP
        assert one.wanted != one.given
        need = needed(given, wanted)
        assert set(wanted.says[one.caption]) >= need
        least = settings.recolour_from if need & {"time", "season", "weather"} else settings.strengths[0]
        assert least <= one.strength <= settings.strengths[1]


def test_the_control_has_no_twins(lessons):
    batch = practice(lessons, twins=TwinSettings(share=0.0)).batch(0.5, np.random.default_rng(0))
    assert (batch.starts == 1000).all()
    assert torch.equal(batch.wanted, batch.given)


def test_the_share_of_twins_is_the_setting_s(lessons):
    batch = practice(lessons, twins=TwinSettings(share=0.5)).batch(0.5, np.random.default_rng(0))
    assert ((batch.starts < 1000).float().mean() - 0.5).abs() < 0.05


def test_no_twin_is_later_than_its_start(lessons):
    batch = practice(lessons, twins=TwinSettings(share=1.0), crop_share=0.0).batch(
        0.5, np.random.default_rng(0)
    )
    assert (batch.times <= batch.starts).all()
    assert batch.wanted.shape == (32, 4, 16, 16)


def test_a_new_model_begins_on_halved_latents(lessons):
    assert practice(lessons, begun=False).batch(0.0, np.random.default_rng(0)).wanted.shape[-1] == 8
    assert practice(lessons, crop_share=0.0).batch(0.0, np.random.default_rng(0)).wanted.shape[-1] == 16


def test_the_last_part_composes_at_twice_the_size(lessons):
    twins = TwinSettings(share=1.0)
    batch = practice(lessons, large_share=1.0, large_batch=32, twins=twins).batch(
        0.9, np.random.default_rng(0)
    )
    assert batch.wanted.shape[-1] == 32
    assert (batch.times >= 500).all()  # softness is of early times
    assert (batch.times <= batch.starts).all()
    assert (batch.starts >= 500).all()


def test_latents_are_asked_for(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(BUILTIN_FOLDER / "tokenizer")
    with pytest.raises(FileNotFoundError, match="encode the pictures first"):
        Lessons(tmp_path, tokenizer, 32)

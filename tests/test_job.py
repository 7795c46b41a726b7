from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backend.errors import BadSettingError, UnknownModelError
from backend.job import MAX_SEED, MAX_SIDE, Job, VaeOptions, fit_size
from backend.models import BUILTIN, FLUX, SD_V1
from backend.settings import Settings
from backend.studio import Studio

JOB = Job(Image.new("RGB", (300, 200)), "a lake")


def test_open_values_come_from_the_model() -> None:
    job = JOB.resolve(BUILTIN)
    assert (job.strength, job.num_inference_steps, job.guidance_scale) == (
        BUILTIN.strength,
        BUILTIN.num_inference_steps,
        BUILTIN.guidance_scale,
    )
    assert 0 <= job.seed <= MAX_SEED
    assert JOB.resolve(BUILTIN).seed != JOB.resolve(BUILTIN).seed, "an open seed is drawn anew each time"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strength", -0.1),
        ("strength", 1.1),
        ("strength", math.nan),
        ("num_inference_steps", 0),
        ("num_inference_steps", 10_000),
        ("guidance_scale", -1.0),
        ("seed", MAX_SEED + 1),
        ("seed", -2),
        ("width", 8),
        ("height", MAX_SIDE + 8),
        ("scheduler", "Fastest"),
        ("prompt", "x" * 20_000),
        ("decode", VaeOptions("sideways")),
        ("encode", VaeOptions("tiled", tile_size=1)),
        ("encode", VaeOptions("tiled", tile_size=128, tile_overlap=100)),
    ],
)
def test_values_out_of_range_are_named_in_a_sentence(field: str, value: object) -> None:
    with pytest.raises(BadSettingError, match=r"\."):
        replace(JOB, **{field: value}).resolve(BUILTIN)


@pytest.mark.parametrize("model", ["nobody", None, 5, ["builtin"]])
def test_an_unknown_model_is_named(model: Any) -> None:
    with pytest.raises(UnknownModelError):
        Studio(Settings()).resolve(replace(JOB, model=model))


def test_a_resolved_job_is_a_complete_job() -> None:
    job = JOB.resolve(BUILTIN)
    assert isinstance(job, Job) and job.spec is BUILTIN and job.image is JOB.image
    assert None not in vars(job).values()
    assert job.run_id != JOB.resolve(BUILTIN).run_id


def test_steps_follow_diffusers_rule() -> None:
    assert replace(JOB, strength=0.5, num_inference_steps=30).resolve(BUILTIN).steps_to_run == 15
    assert replace(JOB, strength=0.01, num_inference_steps=30).resolve(BUILTIN).steps_to_run == 0
    assert replace(JOB, strength=1.0, num_inference_steps=7).resolve(BUILTIN).steps_to_run == 7


def test_pndm_takes_one_step_more() -> None:
    """As its timesteps are; tests/run/test_img2img.py holds the count against the pipeline's."""
    job = replace(JOB, strength=0.6, num_inference_steps=30)
    assert job.resolve(SD_V1).steps_to_run == 19, "its own scheduler"
    assert replace(job, scheduler="PNDM").resolve(BUILTIN).steps_to_run == 19
    assert replace(job, scheduler="Euler").resolve(SD_V1).steps_to_run == 18
    assert replace(job, strength=0.01).resolve(SD_V1).steps_to_run == 0


sides = st.integers(1, 9000)


@given(sides, sides, st.sampled_from([BUILTIN, FLUX]))
def test_sizes_fit_the_latents_and_keep_the_shape(width: int, height: int, spec: object) -> None:
    new_width, new_height = fit_size((width, height), spec)  # type: ignore[arg-type]
    multiple = spec.size_multiple  # type: ignore[attr-defined]
    assert new_width % multiple == new_height % multiple == 0
    assert min(new_width, new_height) >= 64 and max(new_width, new_height) <= MAX_SIDE
    if 1 / 4 < width / height < 4:
        assert math.isclose(new_width / new_height, width / height, rel_tol=0.15)


def test_one_given_side_decides_the_other() -> None:
    assert fit_size((300, 200), BUILTIN, width=600) == (600, 400)
    assert fit_size((300, 200), BUILTIN, height=400) == (600, 400)
    assert fit_size((300, 200), BUILTIN, 64, 128) == (64, 128)


def test_the_recipe_does_it_again() -> None:
    first = replace(JOB, seed=5, strength=0.5).resolve(BUILTIN)
    recipe = first.recipe()
    again = Job(
        JOB.image,
        recipe["prompt"],
        recipe["negative_prompt"],
        recipe["model"],
        recipe["strength"],
        recipe["num_inference_steps"],
        recipe["guidance_scale"],
        recipe["seed"],
        recipe["scheduler"],
        recipe["width"],
        recipe["height"],
    ).resolve(BUILTIN)
    assert again.recipe() == recipe

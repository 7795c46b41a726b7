"""Looks and examples follow the model."""

from __future__ import annotations

import pytest

from backend.models import MODELS
from ui.looks import EXAMPLES, LARGE_EXAMPLES, LARGE_LOOKS, LOOKS, example_of, looks_of, with_look


def test_a_look_replaces_another_also_one_of_another_model() -> None:
    assert with_look("a lake", "oil") == f"a lake, {LOOKS['oil']}"
    assert with_look(f"a lake, {LOOKS['oil']}", "night", "sd-v1") == f"a lake, {LARGE_LOOKS['night']}"
    assert with_look(f"a lake, {LARGE_LOOKS['night']}", "night", "sdxl") == "a lake"
    assert with_look(None, "photo") == LOOKS["photo"]


def test_every_look_and_example_is_there_for_every_model() -> None:
    assert LOOKS.keys() == LARGE_LOOKS.keys() and set(EXAMPLES) == LARGE_EXAMPLES.keys()
    for model in MODELS:
        assert all(looks_of(model).values()) and all(example_of(model, name).prompt for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_stable_diffusion_v1_comes_with_its_own_program(name: str) -> None:
    example = example_of("sd-v1", name)
    assert (example.strength, example.steps, example.guidance) == (0.75, 50, 7.5)
    assert example_of("sd-v1-lcm", name).steps is None, "a distilled model keeps its few steps"
    assert example_of("builtin", name).strength is None

"""Many pictures into one latents file, as the Encode tab does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from backend.errors import BadImageError
from backend.job import VaeOptions
from backend.models import BUILTIN
from backend.studio import Studio
from tests.fakes import FakeStudio
from ui.encode import encode_all
from ui.runs import Runs

WHOLE = VaeOptions("whole")


@pytest.fixture
def uploads(tmp_path: Path, picture: Image.Image) -> list[str]:
    """As Gradio hands them over: each in a folder of its own, two of one name, one that is no picture."""
    paths = [tmp_path / str(n) / name for n, name in enumerate(("a.png", "b.png", "a.png", "notes.png"))]
    for turn, path in enumerate(paths):
        path.parent.mkdir()
        picture.rotate(90 * turn, expand=True).save(path)
    paths[-1].write_text("no picture")
    return [str(path) for path in paths]


def test_all_that_can_be_read_are_in_one_file_with_what_they_mean(
    studio: Studio, uploads: list[str], tmp_path: Path
) -> None:
    run = Runs(tmp_path / "runs").start()
    *steps, (sentence, file) = encode_all(studio, run, uploads, "builtin", WHOLE, "en")
    assert [said for said, _ in steps][-1].endswith("of 4 pictures") and len(steps) == 3
    assert sentence == "3 of 4 pictures are in the file. “notes.png” could not be read and was left out."
    assert file is not None
    with safe_open(str(file), framework="pt") as shard:
        assert sorted(shard.keys()) == ["a (2).png", "a.png", "b.png"]
        told = shard.metadata()
        kept = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - no mapping
    assert told["model"] == "builtin" and float(told["scaling_factor"]) == BUILTIN.latents.scaling_factor
    assert json.loads(told["sizes"])["b.png"] == [64, 96]
    assert all(latents.shape[0] == 4 and torch.isfinite(latents).all() for latents in kept.values())
    width, height = (side * BUILTIN.latents.downscale for side in reversed(kept["a.png"].shape[1:]))
    with Image.open(uploads[0]) as original:
        alone, _ = studio.encode(original.resize((width, height), Image.Resampling.LANCZOS), "builtin", WHOLE)
    assert alone.shape[1:] == kept["a.png"].shape


def test_stopping_keeps_what_is_done(studio: Studio, uploads: list[str], tmp_path: Path) -> None:
    run = Runs(tmp_path / "runs").start()
    told = []
    for step in encode_all(studio, run, uploads[:3], "builtin", WHOLE, "en"):
        told.append(step)
        run.stop.set()
    sentence, file = told[-1]
    assert "Stopped" in sentence and "1 of 3 pictures are in the file" in sentence
    assert file is not None
    with safe_open(str(file), framework="pt") as shard:
        assert list(shard.keys()) == ["a.png"]


def test_without_pictures_it_says_so(tmp_path: Path) -> None:
    run = Runs(tmp_path).start()
    with pytest.raises(BadImageError, match="choose some pictures"):
        list(encode_all(FakeStudio(), run, [], "builtin", WHOLE, "en"))  # type: ignore[arg-type]


def test_nothing_readable_gives_no_file(studio: Studio, uploads: list[str], tmp_path: Path) -> None:
    run = Runs(tmp_path / "runs").start()
    *_, (sentence, file) = encode_all(studio, run, uploads[3:], "builtin", WHOLE, "en")
    assert file is None and "“notes.png” could not be read" in sentence

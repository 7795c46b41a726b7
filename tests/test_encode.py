"""Bulk encode: every picture once, whatever happens in between."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from backend import encode, images
from backend.encode import BulkEncoder, Progress, bucket, finished, main
from backend.errors import BadSettingError, Cancelled
from backend.job import VaeOptions
from backend.models import BUILTIN
from backend.studio import Studio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of three shapes, one of them in a subfolder, one damaged file and one that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    draw = np.random.default_rng(1)
    names = ["a.png", "b.jpg", "c.webp", "d.png", "e.png", "sub/f.png", "g.png"]
    for index, name in enumerate(names):
        shape = [(64, 64, 3), (96, 48, 3), (50, 100, 3)][index % 3]
        Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("not a picture")
    return folder


def encoder(studio: Studio, **changes: Any) -> BulkEncoder:
    return BulkEncoder(studio, BUILTIN, VaeOptions("whole"), **{"side": 64, "batch": 2, "shard": 3} | changes)


def contents(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of all shards; a name in two shards fails."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(out.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a dict
                assert name not in found, "encoded twice"
                found[name] = shard.get_tensor(name)
    return found


def test_every_picture_once_with_its_meaning(studio: Studio, folder: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    summary = encoder(studio).run(folder, tmp_path, notify=told.append)
    assert summary.encoded == 7 and list(summary.unreadable) == ["broken.png"]
    assert told[-1].done == told[-1].total == 8 and told[-1].seconds_left == 0
    found = contents(tmp_path)
    assert set(found) == {"a.png", "b.jpg", "c.webp", "d.png", "e.png", "sub/f.png", "g.png"}
    with safe_open(str(tmp_path / "shard-00000.safetensors"), framework="pt") as shard:
        metadata = shard.metadata()
        sizes = json.loads(metadata["sizes"])
    assert (
        metadata["model"] == "builtin" and float(metadata["scaling_factor"]) == BUILTIN.latents.scaling_factor
    )
    assert all(tuple(sizes[name]) in ((64, 64), (48, 96), (100, 50)) for name in sizes)


def test_a_picture_comes_out_as_if_encoded_alone(studio: Studio, folder: Path, tmp_path: Path) -> None:
    encoder(studio, batch=8).run(folder, tmp_path)
    with Image.open(folder / "b.jpg") as picture:
        size = bucket(picture.size, 64, BUILTIN.size_multiple)
        alone, _ = studio.encode(images.resize(images.to_rgb(picture), *size), "builtin", VaeOptions("whole"))
    assert torch.allclose(contents(tmp_path)["b.jpg"], alone[0], atol=1e-4)


@pytest.mark.parametrize("after", range(1, 5))
def test_a_kill_loses_no_picture_and_does_none_twice(
    studio: Studio, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed in the worst moment: while a shard is being written, and between batches."""
    batches = 0

    def kill(progress: Progress) -> None:
        nonlocal batches
        batches += 1
        if batches == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder(studio).run(folder, tmp_path, notify=kill)
    (tmp_path / "shard-00007.part").write_bytes(b"half a shard")
    survived = len(contents(tmp_path))
    summary = encoder(studio).run(folder, tmp_path)
    assert summary.skipped == survived and summary.encoded == 7 - survived
    assert len(contents(tmp_path)) == 7
    assert encoder(studio).run(folder, tmp_path).encoded == 0, "nothing is left to do"


def test_stopping(studio: Studio, folder: Path, tmp_path: Path) -> None:
    import threading

    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        encoder(studio).run(folder, tmp_path, stop)


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([256, 512, 1024]), st.sampled_from([8, 16])
)
def test_buckets_are_few_and_of_about_the_same_area(
    width: int, height: int, side: int, multiple: int
) -> None:
    bucket_width, bucket_height = bucket((width, height), side, multiple)
    assert bucket_width % multiple == bucket_height % multiple == 0
    assert bucket_width % (side // 8) == bucket_height % (side // 8) == 0
    assert 0.75 <= bucket_width * bucket_height / side**2 <= 1.3


def test_a_folder_with_something_else_is_not_touched(studio: Studio, folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "shard-00000.safetensors"
    foreign.write_bytes(b"hello")
    with pytest.raises(BadSettingError, match="damaged"):
        finished(tmp_path)
    assert foreign.read_bytes() == b"hello"
    with pytest.raises(BadSettingError, match="no folder"):
        encoder(studio).run(tmp_path / "missing", tmp_path / "out")
    for wrong in ({"side": 8}, {"batch": 0}, {"shard": 0}):
        with pytest.raises(BadSettingError):
            encoder(studio, **wrong)


def test_the_command(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    arguments = [
        str(folder),
        "--out",
        str(tmp_path),
        "--size",
        "64",
        "--vae-mode",
        "whole",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 1
    assert "Left out: broken.png" in caplog.text and "s left" in caplog.text
    assert main([*arguments, "--model", "nobody"]) == 2
    assert len(encode.finished(tmp_path)) == 7

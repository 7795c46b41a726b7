"""Bulk encode: every picture once, whatever happens in between."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend import images
from backend.encode import BulkEncoder, Progress, main
from backend.errors import BadSettingError, Cancelled, OutOfMemoryError
from backend.job import VaeOptions
from backend.models import BUILTIN, ModelSpec
from backend.request import StageRequest
from backend.settings import Settings
from backend.shards import bucket, finished
from backend.studio import Studio
from tests.factories import tiny_model


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


def test_a_batch_that_does_not_fit_is_taken_apart(
    studio: Studio, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, tried = studio.executor.stage, []

    def small(request: StageRequest, *arguments: Any) -> Any:
        assert request.tensor is not None
        tried.append(len(request.tensor))
        if tried[-1] > 1:
            raise OutOfMemoryError("There was not enough memory.")
        return stage(request, *arguments)

    monkeypatch.setattr(studio.executor, "stage", small)
    summary = encoder(studio, batch=None).run(folder, tmp_path)
    assert summary.encoded == 7 == len(contents(tmp_path))
    assert tried.count(2) == 1 and max(tried) == 2, "two at once were tried, and not again"


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
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        encoder(studio).run(folder, tmp_path, stop)


OTHER = replace(BUILTIN, name="other")
RESCALED = replace(BUILTIN, latents=replace(BUILTIN.latents, scaling_factor=0.18215))
SHALLOW = replace(BUILTIN, latents=replace(BUILTIN.latents, downscale=8))


@pytest.mark.parametrize(
    ("spec", "side", "sentence"),
    [
        (OTHER, 64, "holds latents of the model builtin, not of other."),
        (RESCALED, 64, "their scaling_factor is "),
        (SHALLOW, 64, "their downscale is 4, not 8."),
        (BUILTIN, 128, "holds pictures of another size than 128."),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_another_model_or_size_is_refused(
    studio: Studio, folder: Path, tmp_path: Path, spec: ModelSpec, side: int, sentence: str, version: int
) -> None:
    encoder(studio).run(folder, tmp_path)
    if version == 1:
        without(tmp_path, "side", "vae", "channels", "downscale")
        if spec is SHALLOW:
            sentence = "of another size than 64."
    before = contents(tmp_path)
    with pytest.raises(BadSettingError) as caught:
        BulkEncoder(studio, spec, VaeOptions("whole"), side=side, batch=2, shard=3).run(folder, tmp_path)
    assert sentence in str(caught.value) and "--out" in caught.value.hint
    assert contents(tmp_path).keys() == before.keys()
    assert encoder(studio).run(folder, tmp_path).skipped == 7, "the same command goes on"


def test_a_folder_of_other_weights_is_refused(
    studio: Studio, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder(studio).run(folder, tmp_path)
    monkeypatch.setattr("backend.latents.vae_fingerprint", lambda _: "sha256:0")
    with pytest.raises(BadSettingError, match="its weights are others"):
        encoder(studio).run(folder, tmp_path)


def test_a_folder_of_the_tiny_vae_is_not_mixed_with_the_whole_ones(
    folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = tiny_model("sd", tmp_path_factory.mktemp("model") / "sd")
    studio = Studio(Settings(device="cpu", local_models=(spec,)))
    modes = {mode: BulkEncoder(studio, spec, VaeOptions(mode), side=64) for mode in ("whole", "tiny")}
    for mode, other in (("whole", "tiny"), ("tiny", "whole")):
        modes[mode].run(folder, tmp_path / mode)
        with pytest.raises(BadSettingError, match=f"holds latents of the model’s {mode} VAE") as caught:
            modes[other].run(folder, tmp_path / mode)
        assert "--vae-mode" in caught.value.hint
        assert modes[mode].run(folder, tmp_path / mode).skipped == 7


def test_pictures_are_read_while_others_are_encoded(
    studio: Studio, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture is encoded only when the second has been read, which therefore cannot be its turn yet."""
    second_read, read = threading.Event(), []
    to_rgb, run = images.to_rgb, studio.executor.stage

    def reading(picture: Image.Image) -> Image.Image:
        rgb = to_rgb(picture)
        read.append(threading.get_ident())
        if len(read) == 2:
            second_read.set()
        return rgb

    def stage(*arguments: Any) -> Any:
        assert second_read.wait(10)
        return run(*arguments)

    monkeypatch.setattr(images, "to_rgb", reading)
    monkeypatch.setattr(studio.executor, "stage", stage)
    assert encoder(studio, batch=1).run(folder, tmp_path).encoded == 7
    assert threading.get_ident() not in read
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def without(out: Path, *names: str) -> None:
    """Take entries out of the shards' metadata."""
    for path in out.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as shard:
            metadata = shard.metadata()
        kept = {name: value for name, value in metadata.items() if name not in names}
        save_file(load_file(path), path, metadata=kept)


def test_a_name_that_comes_again_in_a_subfolder_is_another_picture(studio: Studio, tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("sub/a.png", "blue"), ("sub/deep/a.png", "green")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "in" / name)
    (tmp_path / "in" / "sub" / "text.png").write_text("hello")
    summary = encoder(studio).run(tmp_path / "in", tmp_path / "out")
    found = contents(tmp_path / "out")
    assert set(found) == {"a.png", "sub/a.png", "sub/deep/a.png"}
    assert not torch.allclose(found["a.png"], found["sub/a.png"], atol=0.1)
    assert summary.unreadable == {"sub/text.png": "This file cannot be read as a picture."}


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
        finished(tmp_path, BUILTIN, 64)
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
    assert (
        "Left out: broken.png: This picture is damaged and cannot be read." in caplog.text
        and "s left" in caplog.text
    )
    assert main([*arguments, "--model", "nobody"]) == 2
    assert len(finished(tmp_path, BUILTIN, 64)) == 7

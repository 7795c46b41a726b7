"""Files and texts that mean harm: one sentence or a good result, in bounded time and memory, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from safetensors.torch import save_file

from backend import wire
from backend.device.queue import DeviceQueue
from backend.endpoint.source import Source, parse_source, read_config
from backend.errors import (
    BadImageError,
    BadLatentsError,
    BadSettingError,
    LatentRelayError,
    TooLargeError,
    UnknownModelError,
)
from backend.events import Result
from backend.images import BROKEN, to_rgb
from backend.job import Job, VaeOptions
from backend.latents import load_latents, meaning
from backend.models import BUILTIN
from backend.models.local import local_model, parse_model_path
from backend.studio import Studio
from tests import hostile

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about what is broken
BODIES = hostile.bodies()
BY_NAME = pytest.mark.parametrize("name", BODIES)
ACCEPTED = ("a JPEG with flipped bytes", "a zip behind a PNG", "the largest floats")
"""Pictures all the same (what is behind a PNG is never looked at), and floats that are numbers all the same."""
WHOLE = VaeOptions("whole")


# -- pictures ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warm(studio: Studio) -> Studio:
    """With its model loaded, so that time and memory below are those of one request."""
    studio.warm_up("builtin")
    return studio


@BY_NAME
def test_the_endpoint_answers_every_body_with_a_sentence(warm: Studio, name: str) -> None:
    started, before = time.monotonic(), psutil.Process().memory_info().rss
    decode = "decode?shape=1&shape=4&shape=2&shape=3&dtype=float32&output_type=pt"
    for path in ("encode", decode, "decode"):
        reply = requests.post(f"{warm.self_url}/vae/builtin/{path}", data=BODIES[name], timeout=30)
        if reply.status_code == 200:
            assert name in ACCEPTED or "×" in name
            continue
        assert reply.status_code in (400, 413, 415, 422), reply.text
        assert reply.json()["error"] and reply.headers["content-type"] == "application/json"
    assert time.monotonic() - started < 20
    assert psutil.Process().memory_info().rss - before < 400e6, "a bomb went off"


@BY_NAME
def test_a_picture_is_read_or_refused(name: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(BODIES[name])) as opened:
                picture = to_rgb(opened)
    except (BadImageError, *BROKEN):
        return
    assert picture.mode == "RGB" and picture.width * picture.height <= 64_000_000


def test_a_bomb_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: unpacked.append(picture))
    with pytest.raises(TooLargeError):
        wire.parse_picture(BODIES["a bomb of 900 million pixels"], 8, 2048 * 2048)
    with pytest.raises(TooLargeError):
        wire.parse_picture(hostile.flat_png(9000, 9000), 8, 2048 * 2048)
    assert not unpacked
    with contextlib.suppress(Exception):
        wire.parse_picture(hostile.flat_png(64, 64), 8, 2048 * 2048)
    assert unpacked, "so that it would have been seen"


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_picture_of_one_line_becomes_a_picture(studio: Studio, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "teal")
    job = Job(picture, "", strength=0.0, width=64, height=64, encode=WHOLE, decode=WHOLE)
    *_, result = studio.img2img(job)
    assert isinstance(result, Result) and result.image.size == (64, 64)


def damaged_pictures() -> st.SearchStrategy[bytes]:
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112], exif[0x010E] = 6, "x" * 50
    with_exif = io.BytesIO()
    turned.save(with_exif, "JPEG", exif=exif)
    whole = [hostile.picture_bytes(40, 30, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")]
    patch = st.tuples(st.integers(0, 400), st.integers(0, 255))

    def damage(data: bytes, patches: list[tuple[int, int]], cut: int | None) -> bytes:
        spoilt = bytearray(data)
        for at, byte in patches:
            spoilt[at % len(spoilt)] = byte
        return bytes(spoilt[:cut])

    cuts = st.none() | st.integers(0, 2000)
    return st.builds(
        damage, st.sampled_from([*whole, with_exif.getvalue()]), st.lists(patch, max_size=6), cuts
    )


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged_pictures())
def test_a_damaged_picture_is_read_or_refused_in_our_words(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wire.parse_picture(data, 8, 10**6)
        except LatentRelayError as error:
            assert str(error)
        try:
            opened = Image.open(io.BytesIO(data))
        except BROKEN:
            return
        try:
            to_rgb(opened)
        except BadImageError as error:
            assert str(error)


def test_a_sound_picture_with_a_damaged_exif_is_read() -> None:
    """Pillow turns such a picture, but cannot write its EXIF again: found by the test above."""
    picture = Image.new("RGB", (40, 30), "teal")
    exif = picture.getexif()
    exif[0x0112], exif[0x010E] = 6, "x" * 50
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    data = bytearray(buffer.getvalue())
    at = data.index(b"\x01\x0e\x00\x02")
    data[at + 3] = 0x0B  # a text that says it is a float
    assert wire.parse_picture(bytes(data)).shape[1] == 3


# -- latents and models --------------------------------------------------------------------------------------------

GOOD = {"format": "latent-relay/1", **meaning(BUILTIN)}


def latents_file(path: Path, tensor: torch.Tensor, **changes: str) -> Path:
    save_file({"latents": tensor}, path, metadata={**GOOD, **changes})
    return path


@BY_NAME
def test_no_body_is_a_latents_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "latents.safetensors"
    file.write_bytes(BODIES[name])
    with pytest.raises(BadLatentsError):
        load_latents(file)
    assert not hostile.Trap.marks


HEADERS: dict[str, bytes] = {
    "no header": b"",
    "a header longer than the file": struct.pack("<Q", 2**40),
    "a header that is no JSON": hostile.safetensors_file(b"{" * 50),
    "a header that is a list": hostile.safetensors_file([1]),
    "a header very deep": hostile.safetensors_file(b"[" * 100_000),
    "overlapping tensors": hostile.safetensors_file(
        {"latents": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
         "other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a shape larger than its bytes": hostile.safetensors_file(
        {"latents": {"dtype": "F32", "shape": [1, 4, 9, 9], "data_offsets": [0, 8]}}, bytes(8)),
    "a shape whose product overflows": hostile.safetensors_file(
        {"latents": {"dtype": "F32", "shape": [2**32, 2**32, 4, 1], "data_offsets": [0, 8]}}, bytes(8)),
    "an unknown dtype": hostile.safetensors_file(
        {"latents": {"dtype": "P7", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "a backward tensor": hostile.safetensors_file(
        {"latents": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_lying_headers_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(HEADERS[name])
    with pytest.raises(BadLatentsError):
        load_latents(file)
    with pytest.raises(BadSettingError):
        local_model("mine", file)


@pytest.mark.parametrize(
    ("tensor", "changes"),
    [
        (torch.full((1, 4, 2, 3), torch.nan), {}),
        (torch.full((1, 4, 2, 3), torch.inf), {}),
        (torch.full((1, 4, 2, 3), 3e38), {"scaling_factor": "1e-30"}),
        (torch.zeros(1, 4, 2, 3), {"scaling_factor": "nan"}),
        (torch.zeros(1, 4, 2, 3), {"scaling_factor": "0"}),
        (torch.zeros(1, 4, 2, 3, dtype=torch.uint8), {"scaling_factor": "1.0"}),
        (torch.zeros(1, 4, 4200, 4200, dtype=torch.float16), {}),
        (torch.zeros(999, 4, 80, 80, dtype=torch.float16), {}),
        (torch.zeros(1, 4, 0, 3), {}),
        (torch.zeros(1, 4, 2, 3), {"scaling_factor": "9" * 5000}),
        (torch.zeros(1, 4, 2, 3), {"shift_factor": "[" * 100_000}),
        (torch.zeros(1, 4, 2, 3), {"downscale": hostile.MARKUP}),
        (torch.zeros(1, 4, 2, 3), {"model": "../../etc/passwd"}),
        (torch.zeros(1, 4, 2, 3), {"model": hostile.MARKUP}),
        (torch.zeros(1, 4, 2, 3), {"format": "latent-relay/999"}),
    ],
    ids=str,
)
def test_latents_that_make_no_sense(tmp_path: Path, tensor: torch.Tensor, changes: dict[str, str]) -> None:
    with pytest.raises(BadLatentsError) as caught:
        load_latents(latents_file(tmp_path / "x.safetensors", tensor, **changes))
    assert "<script" not in caught.value.sentence


def test_huge_values_are_a_sentence_and_not_a_black_picture(studio: Studio) -> None:
    with pytest.raises(LatentRelayError, match="overflowed"):
        studio.decode(torch.full((1, 4, 4, 4), 3e38), "builtin", WHOLE)


def test_pickles_are_refused_by_their_type_and_never_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(hostile.Trap()))
    assert hostile.Trap.marks.pop(), "so that the trap can spring"
    for suffix in ("ckpt", "pt", "bin", "pkl", "safetensors"):
        file = tmp_path / f"model.{suffix}"
        torch.save(hostile.Trap(), file)
        with pytest.raises(BadSettingError):
            parse_model_path(f"mine={file}")
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"_class_name": "AutoencoderKL", "block_out_channels": [8]})
    )
    torch.save(hostile.Trap(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(LatentRelayError):
        Source("mine", str(folder), "cpu", "auto", DeviceQueue()).module()
    assert not hostile.Trap.marks


@pytest.mark.parametrize(
    "config", [b"[" * 100_000, b"\xff", b"[]", b'{"_class_name": "StableDiffusionPipeline"}']
)
def test_configs_that_make_no_sense(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "model_index.json").write_bytes(config)
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_bytes(b'{"block_out_channels": "many", "latent_channels": []}')
    with pytest.raises(BadSettingError):
        local_model("mine", tmp_path)
    if config.startswith((b"[[", b"\xff")):
        with pytest.raises(LatentRelayError):
            read_config(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/b", "a\\b", "", "%2e%2e", "x" * 300, "ü", "a b", ".hidden", "\0"]
)
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    for parse in (parse_model_path, parse_source):
        with pytest.raises(BadSettingError):
            parse(f"{name}={tmp_path}")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..%2f..%2fetc", hostile.MARKUP, hostile.UNICODE, "builtin/../x"]
)
def test_a_models_name_from_outside_is_looked_up_and_nothing_else(studio: Studio, name: str) -> None:
    with pytest.raises(UnknownModelError):
        studio.encode(Image.new("RGB", (64, 64)), name, WHOLE)
    url = f"{studio.self_url}/vae/{requests.utils.quote(name, safe='')}/decode"
    assert requests.post(url, timeout=10).status_code == 404


# -- texts ---------------------------------------------------------------------------------------------------------


def wish(prompt: str, **more: Any) -> Job:
    picture = Image.new("RGB", (64, 64), "teal")
    return Job(
        picture,
        prompt,
        strength=0.3,
        num_inference_steps=3,
        width=64,
        height=64,
        encode=WHOLE,
        decode=WHOLE,
        **more,
    )


@pytest.mark.parametrize(
    "prompt", [hostile.MARKUP, hostile.UNICODE, "\0", "🏔️" * 2000, "' OR 1=1 --", "{{7*7}} ${x}"]
)
def test_any_text_can_be_a_prompt_and_comes_back_as_it_was(studio: Studio, prompt: str) -> None:
    *_, result = studio.img2img(wish(prompt, negative_prompt=prompt))
    assert isinstance(result, Result) and result.recipe["prompt"] == prompt
    assert json.loads(json.dumps(result.recipe)) == result.recipe


@pytest.mark.parametrize("prompt", [hostile.LONG, "half \ud83c a letter"])
def test_a_prompt_that_cannot_be_is_refused_before_anything_runs(studio: Studio, prompt: str) -> None:
    for field in ({"prompt": prompt}, {"prompt": "", "negative_prompt": prompt}):
        with pytest.raises(BadSettingError, match="prompt"):
            studio.img2img(wish(**field))

"""The wire protocol: pack and parse are inverse in every dialect, and a bad body gets a clear error."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend import wire
from backend.errors import LatentRelayError, TooLargeError, UnsupportedTypeError, WireError

FLOATS = [torch.float16, torch.float32, torch.bfloat16]
quick = settings(max_examples=60, deadline=None)


@st.composite
def tensors(draw: st.DrawFn, dtypes: Any = (*FLOATS, torch.uint8), rank: int | None = None) -> torch.Tensor:
    shape = draw(st.lists(st.integers(1, 5), min_size=rank or 1, max_size=rank or 5))
    dtype = draw(st.sampled_from(list(dtypes)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator).to(dtype)


scalings = st.one_of(
    st.sampled_from([wire.RAW, wire.CONFIGURED]),
    st.builds(
        wire.Scaling,
        st.floats(0.001, 100).filter(lambda value: value != 1.0),
        st.floats(-10, 10),
    ),
)
dialects = st.sampled_from(["binary", "base64"])


@quick
@given(tensors())
def test_tensor_round_trip(tensor: torch.Tensor) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    body = wire.pack_tensor(tensor)
    assert len(body) == tensor.numel() * wire.DTYPES[dtype]
    back = wire.parse_tensor(body, tuple(tensor.shape), dtype)
    assert back.dtype == tensor.dtype and torch.equal(back, tensor)


def test_a_tensor_that_is_a_view_travels_by_its_values() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[::2]
    assert torch.equal(wire.parse_tensor(wire.pack_tensor(tensor), tuple(tensor.shape), "float32"), tensor)


@quick
@given(tensors(rank=4), scalings, st.sampled_from(wire.OUTPUTS), st.booleans(), dialects)
def test_decode_request_round_trip(
    latents: torch.Tensor,
    scaling: wire.Scaling,
    output: wire.Output,
    base64_reply: bool,
    dialect: wire.Dialect,
) -> None:
    base64_reply = base64_reply and output not in ("jpg", "png")
    sent = wire.DecodeRequest(latents, scaling, output, base64_reply)
    message = wire.pack_decode_request(sent, dialect)
    back = wire.parse_decode_request(message.query, message.headers, message.body)
    assert torch.equal(back.latents, latents) and back.latents.dtype == latents.dtype
    assert (back.scaling, back.output, back.base64_reply) == (scaling, output, base64_reply)


@quick
@given(
    tensors(dtypes=[torch.uint8], rank=4),
    scalings,
    st.sampled_from(["uint8", "float32"]),
    st.booleans(),
    dialects,
)
def test_encode_request_round_trip(
    pixels: torch.Tensor, scaling: wire.Scaling, transfer: Any, base64_reply: bool, dialect: wire.Dialect
) -> None:
    image = wire.pixels_to_image(pixels[:, :, :, :1].expand(-1, -1, -1, 3))
    sent = wire.EncodeRequest(image, scaling, base64_reply)
    message = wire.pack_encode_request(sent, transfer, dialect)
    # A picture 3 pixels high could be meant either way round; three rows of nothing else decide for NCHW.
    back = wire.parse_encode_request(message.query, message.headers, message.body)
    if image.shape[2] != 3 or transfer == "float32":
        assert torch.equal(back.image, image)
    assert (back.scaling, back.base64_reply) == (scaling, base64_reply)


@quick
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_png_keeps_every_pixel(width: int, height: int, seed: int) -> None:
    pixels = torch.randint(0, 256, (1, height, width, 3), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )
    image = wire.pixels_to_image(pixels)
    assert torch.equal(wire.image_to_pixels(image), pixels)
    message = wire.pack_encode_request(wire.EncodeRequest(image), "png")
    assert torch.equal(wire.parse_encode_request(message.query, message.headers, message.body).image, image)
    headers, body = wire.pack_decode_reply(image, "png")
    assert torch.equal(wire.parse_decode_reply(headers, body, "png"), image)


@quick
@given(tensors(), st.booleans())
def test_tensor_reply_round_trip(tensor: torch.Tensor, base64_reply: bool) -> None:
    headers, body = wire.pack_tensor_reply(tensor, base64_reply=base64_reply)
    back = wire.parse_tensor_reply(headers, body)
    assert torch.equal(back, tensor) and back.dtype == tensor.dtype


@pytest.mark.parametrize("output", wire.OUTPUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_decode_reply_round_trip(output: wire.Output, dtype: str) -> None:
    pixels = torch.arange(2 * 3 * 3, dtype=torch.uint8).reshape(1, 2, 3, 3) * 14
    image = wire.pixels_to_image(pixels)
    back = wire.parse_decode_reply(*wire.pack_decode_reply(image, output, dtype), output)
    tolerance = {"jpg": 0.2, "png": 0, "uint8": 0}.get(
        output, {"float32": 1e-6, "float16": 2e-3}.get(dtype, 0.02)
    )
    torch.testing.assert_close(back, image, rtol=0, atol=tolerance)


@quick
@given(tensors(dtypes=FLOATS, rank=4), st.integers(0, 15), st.integers(0, 15))
def test_packed_latents_round_trip(latents: torch.Tensor, more_height: int, more_width: int) -> None:
    latents = latents.repeat(1, 1, 2, 2)
    height, width = latents.shape[2] * 8 + more_height, latents.shape[3] * 8 + more_width
    packed = wire.pack_latents(latents)
    assert packed.ndim == 3 and packed.shape[2] == latents.shape[1] * 4
    assert torch.equal(wire.unpack_latents(packed, height, width), latents)
    query = [
        *(("shape", str(side)) for side in packed.shape),
        ("dtype", str(packed.dtype).removeprefix("torch.")),
    ]
    query += [("height", str(height)), ("width", str(width))]
    assert torch.equal(wire.parse_decode_request(query, {}, wire.pack_tensor(packed)).latents, latents)


def test_packing_is_the_flux_pipelines() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 6, 8)
    assert torch.equal(wire.pack_latents(latents), FluxPipeline._pack_latents(latents, 2, 16, 6, 8))


@pytest.mark.parametrize(
    "query",
    [
        "shape=1&shape=4&shape=2&shape=3",
        "shape=[1,4,2,3]",
        "shape=%5B1%2C%204%2C%202%2C%203%5D",
        "shape=1,4,2,3",
    ],
)
@pytest.mark.parametrize("true", ["True", "true", "1"])
@pytest.mark.parametrize("nothing", ["", "&shift_factor=&height=", "&shift_factor=None"])
def test_dialects_of_the_query(query: str, true: str, nothing: str) -> None:
    latents = torch.randn(1, 4, 2, 3)
    text = f"{query}&dtype=float32&scaling_factor=0.5&output_type=pt&partial_postprocess={true}{nothing}"
    request = wire.parse_decode_request(wire.parse_query(text), {}, wire.pack_tensor(latents))
    assert torch.equal(request.latents, latents)
    assert request.scaling == wire.Scaling(0.5, 0.0) and request.output == "uint8"


LATENTS = [("shape", "1"), ("shape", "4"), ("shape", "1"), ("shape", "1"), ("dtype", "float32")]


@pytest.mark.parametrize(
    ("more", "scaling"),
    [
        ({}, wire.RAW),  # today's diffusers with do_scaling=False
        ({"do_scaling": "True"}, wire.CONFIGURED),
        ({"do_scaling": "False", "scaling_factor": "0.5"}, wire.RAW),
        ({"do_scaling": "True", "scaling_factor": "0.5"}, wire.Scaling(0.5)),
        ({"scaling_factor": "0.3611", "shift_factor": "0.1159"}, wire.Scaling(0.3611, 0.1159)),
        ({"shift_factor": "0.1"}, wire.Scaling(1.0, 0.1)),
        (
            {"input_tensor_type": "binary"},
            wire.CONFIGURED,
        ),  # a client of the first servers, whose default was True
        ({"input_tensor_type": "binary", "do_scaling": "false"}, wire.RAW),
    ],
)
def test_what_scaling_is_meant(more: dict[str, str], scaling: wire.Scaling) -> None:
    request = wire.parse_decode_request([*LATENTS, *more.items()], {}, bytes(16))
    assert request.scaling == scaling


def test_legacy_base64_has_its_parameters_in_query_or_body() -> None:
    latents = torch.randn(1, 4, 2, 2)
    inputs = base64.b64encode(wire.pack_tensor(latents)).decode()
    in_body = json.dumps(
        {"inputs": inputs, "parameters": {"shape": [1, 4, 2, 2], "dtype": "float32"}}
    ).encode()
    in_query = json.dumps({"inputs": inputs}).encode()
    query = [("shape", "[1, 4, 2, 2]"), ("dtype", "float32")]
    for pairs, headers, body in (
        ([], {"content-type": "application/json"}, in_body),
        ([], {}, in_body),  # curl without a type
        (query, {"content-type": "tensor/base64"}, in_query),
        (query, {"content-type": "tensor/base64"}, inputs.encode()),
    ):
        request = wire.parse_decode_request(pairs, {**headers, "accept": "tensor/base64"}, body)
        assert torch.equal(request.latents, latents)
        assert request.scaling == wire.CONFIGURED and request.output == "unit" and request.base64_reply


@pytest.mark.parametrize(
    ("output_type", "accept", "partial", "output"),
    [
        (None, "*/*", None, "jpg"),
        ("pil", "image/jpeg", "False", "jpg"),
        ("pil", "image/png", None, "png"),
        ("pil", "tensor/binary", "True", "unit"),
        ("pt", "tensor/binary", "False", "pt"),
        ("pt", "*/*", "true", "uint8"),
    ],
)
def test_what_output_is_meant(output_type: str | None, accept: str, partial: str | None, output: str) -> None:
    query = [*LATENTS, ("output_type", output_type or ""), ("partial_postprocess", partial or "")]
    assert wire.parse_decode_request(query, {"accept": accept}, bytes(16)).output == output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": None}, "shape of the latents is missing"),
        ({"shape": "1,4,x,1"}, "“x” is not a side"),
        ({"shape": "[1,4"}, "cannot be read"),
        ({"shape": "[" * 5000}, "cannot be read"),
        ({"shape": "-1,4,1,1"}, "“-1” is not a side"),
        ({"shape": "0,4,1,1"}, "“0” is not a side"),
        ({"shape": "1.5,4,1,1"}, "is not a side"),
        ({"shape": "1,4,1,99999999999999999999"}, "is not a side"),
        ({"shape": "[[1],4,1,1]"}, "is not a side"),
        ({"shape": "[true,4,1,1]"}, "is not a side"),
        ({"shape": '{"a":1}'}, "is not a side"),
        ({"shape": "4,4"}, "Latents have 4 dimensions"),
        ({"shape": "1,4,2,2,1"}, "Latents have 4 dimensions"),
        ({"shape": "1,1,4"}, "height and width"),
        ({"shape": "1,1,4", "height": "64", "width": "64"}, "16 tokens"),
        ({"shape": "1,4,1,1", "height": "-5"}, "height must be"),
        ({"shape": "1,4,1,2"}, "has 32 bytes, but 16 came"),
        ({"dtype": None}, "dtype of the tensor is missing"),
        ({"dtype": "int8"}, "“int8” is not served"),
        ({"scaling_factor": "abc"}, "scaling_factor must be a number"),
        ({"scaling_factor": "nan"}, "scaling_factor must be a number"),
        ({"scaling_factor": "0"}, "must not be 0"),
        ({"shift_factor": "inf"}, "shift_factor must be a number"),
        ({"do_scaling": "maybe"}, "do_scaling must be true or false"),
        ({"output_type": "gif"}, "output_type must be one of"),
        ({"image_format": "bmp"}, "image_format must be one of"),
        ({"output_type": "mp4"}, "not videos"),
    ],
)
def test_a_bad_parameter_gets_a_clear_error(change: dict[str, str | None], message: str) -> None:
    pairs: dict[str, str | None] = {"shape": "1,4,1,1", "dtype": "float32", **change}
    query = [(key, value) for key, value in pairs.items() if value is not None]
    with pytest.raises(WireError, match=message):
        wire.parse_decode_request(query, {}, bytes(16))


@pytest.mark.parametrize(
    ("headers", "body", "kind", "message"),
    [
        ({}, b"", WireError, "empty"),
        ({}, b"GIF89a" + bytes(20), UnsupportedTypeError, "no picture"),
        ({}, b"hello", UnsupportedTypeError, "no picture"),
        ({}, b"\x89PNG\r\n\x1a\n" + bytes(40), WireError, "broken"),
        ({}, b"\xff\xd8\xff\xe0" + bytes(40), WireError, "broken"),
        ({}, b"RIFF\x00\x00\x00\x00WEBPVP8 ", WireError, "broken"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x", UnsupportedTypeError, "multipart"),
        ({"content-type": "application/json"}, b"{", WireError, "no JSON"),
        ({"content-type": "application/json"}, b"[" * 100000, WireError, "base64"),
        ({"content-type": "application/json"}, b'{"a": ' * 100000, WireError, "more than the 20000 values"),
        ({"content-type": "application/json"}, b'{"inputs": 5}', WireError, "no “inputs”"),
        ({"content-type": "application/json"}, b'{"inputs": "?"}', WireError, "not base64"),
        (
            {"content-type": "application/json"},
            b'{"inputs": "", "parameters": 3}',
            WireError,
            "must be an object",
        ),
    ],
)
def test_a_bad_picture_gets_a_clear_error(
    headers: dict[str, str], body: bytes, kind: Any, message: str
) -> None:
    with pytest.raises(kind, match=message):
        wire.parse_encode_request([], headers, body)


def test_a_truncated_picture_is_said_to_be_broken(picture: Image.Image) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind)
        whole = buffer.getvalue()
        with pytest.raises(LatentRelayError, match=r"broken|damaged"):
            wire.parse_picture(whole[: len(whole) // 2])


def test_a_picture_too_large_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, format="PNG")
    with pytest.raises(TooLargeError, match="9000x9000"):
        wire.parse_picture(buffer.getvalue(), max_pixels=1024 * 1024)
    # More than Pillow's own alarm: still a sentence, not a warning or a crash.
    Image.new("1", (20000, 10000)).save(buffer := io.BytesIO(), format="PNG")
    with pytest.raises(TooLargeError):
        wire.parse_picture(buffer.getvalue(), max_pixels=1024 * 1024)


def test_latents_that_are_not_finite_are_refused() -> None:
    body = wire.pack_tensor(torch.tensor([[[[math.nan]], [[0.0]], [[0.0]], [[0.0]]]]))
    with pytest.raises(WireError, match="NaN"):
        wire.parse_decode_request(LATENTS, {}, body)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shape", "dtype", "do_scaling", "output_type", "height", "x"]),
            st.text(max_size=8),
        ),
        max_size=8,
    ),
    st.dictionaries(
        st.sampled_from(["content-type", "accept"]),
        st.sampled_from(["tensor/base64", "image/png", "*/*", "text/html"]),
    ),
    st.binary(max_size=64),
)
def test_nothing_a_client_sends_raises_anything_else(
    query: list[tuple[str, str]], headers: dict[str, str], body: bytes
) -> None:
    for parse in (
        lambda: wire.parse_decode_request(query, headers, body),
        lambda: wire.parse_encode_request(query, headers, body),
        lambda: wire.peek_decode(query, headers),
        lambda: wire.peek_encode(query),
        lambda: wire.guess_direction(query, headers, body, 4),
    ):
        try:
            parse()
        except LatentRelayError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("headers", "body", "output", "message"),
    [
        ({"content-type": "text/html"}, b"<html>", "png", "a web page, not the png picture"),
        ({"content-type": "text/html"}, b"<html>", "pt", "a web page, not a tensor"),
        ({}, b"", "pt", "empty, not a tensor"),
        ({"shape": "[1, 3, 2, 2]", "dtype": "float32"}, bytes(47), "pt", "48 bytes, but 47 came"),
        ({"shape": "[1, 3, 2, 2]", "dtype": "float64"}, bytes(96), "pt", "“float64” is not served"),
        ({"shape": "[1, 3, 2, 2]"}, bytes(48), "pt", "dtype of the tensor is missing"),
        ({"shape": "[1, 4, 2, 2]", "dtype": "float32"}, bytes(64), "pt", "not the picture asked for"),
        ({"shape": "[1, 3, 2, 2]", "dtype": "uint8"}, bytes(12), "pt", "not the picture asked for"),
        ({"shape": "[1, 2, 2, 3]", "dtype": "float32"}, bytes(48), "uint8", "not the picture asked for"),
    ],
)
def test_a_bad_reply_gets_a_clear_error(
    headers: dict[str, str], body: bytes, output: wire.Output, message: str
) -> None:
    with pytest.raises(WireError, match=message):
        wire.parse_decode_reply(headers, body, output)


def test_timing_round_trip() -> None:
    stages = {"queue": 0.25, "compute": 1.5}
    assert wire.parse_timing(wire.pack_timing(stages)) == stages
    assert wire.parse_timing('cache;desc=hit, db;dur=abc, app;desc="x";dur=20') == {"app": 0.02}


def test_images_come_in_by_the_same_bits_as_the_page_makes_them(picture: Image.Image) -> None:
    from backend.images import to_tensor

    pixels = torch.from_numpy(np.array(picture)).unsqueeze(0)
    assert torch.equal(wire.pixels_to_image(pixels), to_tensor(picture))

"""PNG files, latents files, JSON documents, chunked bodies and endpoints' descriptions that are nearly right, or large,
or deep, as hypothesis strategies."""

from __future__ import annotations

import json
import struct
import zlib
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from backend.latents import meaning
from backend.models import BUILTIN
from tests import hostile
from ui.recipe import CHUNK, parameters_text

# -- JSON ------------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_OPENINGS = ("[", "{", '{"a":', '[{"a":[', '{"data":[', '"', "[[],", '{"a":1,')
_TAILS = ("", "]", "}", '"', "1", "NaN", "\\", "\x00", "é", '"\\ud800"')


def json_bodies(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """A valid document with values replaced by any, or text that opens without end, wide or deep."""
    documents = st.one_of(valid, JSON_VALUES).map(lambda value: json.dumps(value).encode())
    endless = st.builds(
        lambda head, opening, count, tail: (head + opening * count + tail).encode(),
        st.sampled_from(("", '{"data": ', '{"session_hash": "x", "data": [', '{"inputs": ')),
        st.sampled_from(_OPENINGS),
        st.sampled_from((1, 10, 31, 33, 100, 5_000, 50_000)),
        st.sampled_from(_TAILS),
    )
    cut = st.builds(lambda body, at: body[: at % (len(body) + 1)], documents, st.integers(0, 10_000))
    return st.one_of(documents, documents, endless, cut, st.binary(max_size=40))


GOOD_DESCRIPTION: dict[str, Any] = {
    "name": "builtin",
    "channels": BUILTIN.latents.channels,
    "downscale": BUILTIN.latents.downscale,
    "scaling_factor": BUILTIN.latents.scaling_factor,
    "shift_factor": None,
    "fixed_scale": False,
    "limits": {"max_pixels": 4096},
}
_DESCRIPTION = st.fixed_dictionaries(
    {}, optional={key: JSON_VALUES | st.just(value) for key, value in GOOD_DESCRIPTION.items()}
)
DESCRIPTIONS = st.one_of(
    JSON_VALUES,
    _DESCRIPTION,
    st.fixed_dictionaries({"vaes": st.lists(_DESCRIPTION, max_size=4) | JSON_VALUES}),
)
"""What an endpoint may say of itself: anything that JSON can say."""


# -- chunked bodies --------------------------------------------------------------------------------------------


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """`body` in chunks as HTTP/1.1 sends them, with up to two things wrong in their frame."""
    sizes = draw(st.lists(st.integers(1, max(1, len(body))), max_size=6))
    framed, at = b"", 0
    for size in [*sizes, len(body)]:
        part = body[at : at + size]
        at += len(part)
        if part:
            framed += b"%x\r\n%s\r\n" % (len(part), part)
    framed += b"0\r\n\r\n"
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.integers(0, len(framed)))
        what = draw(
            st.sampled_from(
                (b"\r\n", b"\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b";x=y", b" ", b"G", b"0x10\r\n")
            )
            | st.binary(min_size=1, max_size=4)
        )  # fmt: skip
        framed = framed[:where] + what + framed[where + draw(st.integers(0, 4)) :]
    return framed


# -- PNG files -------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes, *, right: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) if right else 0
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


@cache
def _pixels() -> tuple[bytes, bytes]:
    """The header and the data of a picture of 16 by 16 pixels."""
    return struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0), zlib.compress((b"\0" + bytes(48)) * 16)


_RECIPE = {
    "prompt": "a lake", "negative_prompt": "fog", "num_inference_steps": 4, "scheduler": "default", "strength": 0.5,
    "guidance_scale": 1.0, "seed": 7, "width": 64, "height": 64, "model": "builtin", "fit": "crop",
    "encode_mode": "auto", "decode_mode": "auto", "tile_size": 128, "tile_overlap": 32, "transfer": "uint8",
}  # fmt: skip
_RECIPES = st.fixed_dictionaries({key: st.just(value) | JSON_VALUES for key, value in _RECIPE.items()})
_METADATA = st.fixed_dictionaries(
    {
        "recipe": _RECIPES | JSON_VALUES,
        "stages": st.just([]) | JSON_VALUES | st.lists(JSON_VALUES, max_size=3),
    }
)
_OURS = st.one_of(
    _METADATA.map(lambda value: json.dumps(value).encode()),
    JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    st.sampled_from((b"[" * 60_000, b'{"recipe":' * 5_000, b"1" * 60_000, b"", b"\xff\xfe")),
)
_PAIRS = st.lists(
    st.tuples(
        st.sampled_from(
            ("Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Denoising strength", "x", "")
        ),
        st.sampled_from(
            ("4", "7.5", "64x64", "-1", "9" * 300, '"a, b"', '"', "Euler a", "nan", "x" * 3000, "")
        )
        | st.text(max_size=8),
    ),
    max_size=6,
).map(lambda pairs: ", ".join(f"{key}: {value}" for key, value in pairs))
_PARAMETERS = st.builds(
    lambda prompt, negative, pairs, spaces: f"{prompt}\n{negative}{pairs}{' ' * spaces}".encode("utf-8", "replace"),
    st.sampled_from((parameters_text(_RECIPE), hostile.MARKUP, "x", "")) | st.text(max_size=40),
    st.sampled_from(("Negative prompt: fog\n", "Negative prompt:", "")),
    _PAIRS,
    st.sampled_from((0, 1, 2_000, 60_000)),
)  # fmt: skip


@st.composite
def _text_chunk(draw: st.DrawFn) -> bytes:
    """tEXt, zTXt or iTXt with one of the names that are read, whose inside may be anything."""
    name = draw(st.sampled_from((CHUNK.encode(), b"parameters", b"Comment", b"", b"x" * 100)))
    text = draw(_OURS if name == CHUNK.encode() else _PARAMETERS)
    kind = draw(st.sampled_from((b"tEXt", b"zTXt", b"iTXt")))
    if kind == b"zTXt":
        text = b"\0" + draw(st.sampled_from((zlib.compress(text), text)))
    elif kind == b"iTXt":
        packed = draw(st.booleans())
        flags = bytes([packed, draw(st.sampled_from((0, 0, 1)))])
        text = flags + b"en\0\0" + (zlib.compress(text) if packed else text)
    return _chunk(kind, name + b"\0" + text, right=draw(st.sampled_from((True, True, True, False))))


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """A small picture with chunks before, between and behind its pixels, whole or with one thing wrong."""
    header, data = _pixels()
    others = st.builds(
        _chunk,
        st.sampled_from((b"eXIf", b"iCCP", b"gAMA", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"pHYs", b"abCd")),
        st.binary(max_size=30),
    )
    chunks = st.lists(st.one_of(_text_chunk(), _text_chunk(), others), max_size=3).map(b"".join)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + draw(chunks)
    png += _chunk(b"IDAT", data) + draw(chunks) + _chunk(b"IEND", b"")
    match draw(st.integers(0, 6)):
        case 0:
            return png[: draw(st.integers(0, len(png)))]
        case 1:
            at = draw(st.integers(8, len(png)))
            return png[:at] + draw(st.binary(min_size=1, max_size=6)) + png[at + 4 :]
    return png


# -- latents files ---------------------------------------------------------------------------------------------

_GOOD_METADATA = {
    "format": "latent-relay/1",
    **meaning(BUILTIN),
    "scaled": "true",
    "width": "12",
    "height": "8",
}
_WORDS = st.sampled_from(
    (
        "",
        "null",
        "4",
        "8",
        "-1",
        "nan",
        "inf",
        "1e400",
        "9" * 400,
        "builtin",
        "sdxl",
        "sd-v1",
        "true",
        "{}",
        "é",
    )
) | st.text(st.characters(codec="utf-8"), max_size=12)
_SHAPES = (
    (1, 4, 2, 3),
    (1, 4, 1, 1),
    (2, 4, 2, 3),
    (4, 2, 3),
    (1, 16, 2, 3),
    (1, 4, 0, 3),
    (),
    (1, 4, 2, 3, 1),
)
_DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.bool,
    torch.float64,
    torch.float8_e5m2,
)


@st.composite
def latents_files(draw: st.DrawFn) -> bytes:
    """A safetensors file that nearly is one of ours: metadata, names, shapes and dtypes may be anything."""
    metadata = dict(_GOOD_METADATA)
    for key in draw(st.lists(st.sampled_from((*metadata, "other")), max_size=3)):
        if draw(st.booleans()):
            metadata.pop(key, None)
        else:
            metadata[key] = draw(_WORDS)
    shape, dtype = draw(st.sampled_from((*_SHAPES[:1] * 4, *_SHAPES))), draw(st.sampled_from(_DTYPES))
    filling = draw(st.sampled_from((0.0, 0.0, float("nan"), float("inf"), 1e4, -1.0)))
    tensor = torch.full(shape, filling if dtype.is_floating_point else 0.0).to(dtype)
    content = save({draw(st.sampled_from(("latents", "latents", "latents", "x"))): tensor}, metadata)
    if draw(st.integers(0, 3)) == 0:
        header = draw(
            JSON_VALUES | st.fixed_dictionaries({"latents": JSON_VALUES, "__metadata__": JSON_VALUES})
        )
        content = hostile.safetensors_file(
            header, bytes(96), length=draw(st.sampled_from((None, None, 2**40)))
        )
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content

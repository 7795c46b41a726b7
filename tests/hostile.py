"""Bodies and files that mean harm, by name: made here, so that no such file lies in the repository."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"
UNICODE = "\u202e\u200b\u0000\ud7ff🏔️\u0301" * 8 + "ﷺ" * 64
LONG = "a mountain lake " * 6400
"""A prompt of 100 kB."""


class Trap:
    """Unpickled, it leaves a mark: whoever finds the mark knows that a pickle was loaded."""

    marks: list[str] = []  # noqa: RUF012 - shared on purpose

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return spring, ("a pickle was loaded",)


def spring(mark: str) -> None:
    Trap.marks.append(mark)


def picture_bytes(width: int, height: int, kind: str = "PNG") -> bytes:
    """An ordinary picture file."""
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def flat_png(width: int, height: int) -> bytes:
    """A black PNG: some kilobytes for many millions of pixels, made without unpacking them here."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = _zeros((width + 1) * height)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """zlib's stream for so many zeros: one flushed block again and again, and the checksum by its formula."""
    block = min(count, 2**22)
    repeats, rest = divmod(count, block)
    checksum = (count % 65521 << 16) | 1
    return b"x\xda" + _flushed(block) * repeats + _flushed(rest) + b"\x03\0" + checksum.to_bytes(4, "big")


def _flushed(count: int) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_FULL_FLUSH)


def png_that_lies(width: int, height: int) -> bytes:
    """A header of that size over the data of a single pixel."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(2))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def png_with_text(size: int) -> bytes:
    """A small PNG with a compressed text chunk that unpacks to `size` bytes."""
    text = b"Comment\0\0" + _zeros(size)
    plain = picture_bytes(16, 16)
    return plain[:33] + _chunk(b"zTXt", text) + plain[33:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header says that size, whatever its data holds."""
    data = bytearray(picture_bytes(16, 16, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def safetensors_file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header; `length` lies about how long that is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def zip_of(content: bytes) -> bytes:
    """A zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", content)
    return buffer.getvalue()


def bodies() -> dict[str, bytes]:
    """What no endpoint and no upload should fall for."""
    png, jpeg, webp = (picture_bytes(24, 16, kind) for kind in ("PNG", "JPEG", "WEBP"))
    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    return {
        "a bomb of 900 million pixels": flat_png(30_000, 30_000),
        "a bomb in a text chunk": png_with_text(50_000_000),
        "1 × 60000": flat_png(1, 60_000),
        "60000 × 1": flat_png(60_000, 1),
        "a PNG that lies about its size": png_that_lies(1000, 1000),
        "a PNG of 2³¹ pixels": png_that_lies(2**31 - 1, 2**31 - 1),
        "a PNG of no pixels": png_that_lies(0, 0),
        "a JPEG of 65535 × 65535": jpeg_of_size(65535, 65535),
        "a PNG cut off": png[: len(png) // 2],
        "a JPEG cut off": jpeg[: len(jpeg) // 2],
        "a WebP cut off": webp[: len(webp) // 2],
        "a PNG with flipped bytes": bytes(byte ^ 0x55 if 60 < i < 90 else byte for i, byte in enumerate(png)),
        "a JPEG with flipped bytes": bytes(
            byte ^ 0x55 if 30 < i < 60 else byte for i, byte in enumerate(jpeg)
        ),
        "a WebP with flipped bytes": bytes(
            byte ^ 0x55 if 20 < i < 60 else byte for i, byte in enumerate(webp)
        ),
        "only a PNG's first bytes": b"\x89PNG\r\n\x1a\n",
        "a zip behind a PNG": png + zip_of(b"x" * 100),
        "a script behind a GIF's name": b"GIF89a/*" + MARKUP.encode() + b"*/",
        "HTML": f"<!doctype html><html>{MARKUP}</html>".encode(),
        "SVG": f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{MARKUP}</svg>'.encode(),
        "SVG that asks for a file": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "a pickle": pickle.dumps(Trap()),
        "a zip of zeros": zip_of(bytes(2_000_000)),
        "zlib of zeros": _zeros(20_000_000),
        "JSON a hundred thousand deep": b"[" * 100_000,
        "an object a hundred thousand deep": b'{"a":' * 100_000,
        "a number of a hundred thousand digits": b'{"inputs": ' + b"9" * 100_000 + b"}",
        "inputs that are no base64": b'{"inputs": "%%%%", "parameters": {"shape": [1, 4, 2, 3], "dtype": "float32"}}',
        "parameters that are a list": b'{"inputs": "AAAA", "parameters": [1, 2]}',
        "markup as parameters": json.dumps(
            {"inputs": "AAAA", "parameters": {"shape": MARKUP, "dtype": MARKUP, "output_type": UNICODE}}
        ).encode(),
        "a prompt of 100 kB": LONG.encode(),
        "NaN": nan * 24,
        "infinity": inf * 24,
        "the largest floats": struct.pack("<f", 3.4e38) * 24,
        "a safetensors header of 2⁶³ bytes": safetensors_file({}, length=2**63),
        "a safetensors tensor outside its file": safetensors_file(
            {"latents": {"dtype": "F32", "shape": [1, 4, 2, 3], "data_offsets": [0, 2**40]}}, bytes(8)
        ),
        "base64 of a bomb": json.dumps({"inputs": base64.b64encode(flat_png(9000, 9000)).decode()}).encode(),
    }

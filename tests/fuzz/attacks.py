"""Requests that are nearly right, as hypothesis strategies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from urllib.parse import quote, urlencode

import torch
from hypothesis import strategies as st

from backend import wire
from backend.models import BUILTIN
from tests import hostile

LATENTS = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(5))
IMAGE = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(6)) * 2 - 1

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Attack:
    """One HTTP request. `spoil` is what becomes of its bytes on the way: (position, bytes put there), or None."""

    method: str
    path: str
    query: Pairs = ()
    headers: Pairs = ()
    body: bytes = b""
    length: int | None = None
    """A Content-Length that lies."""
    spoil: tuple[int, bytes] | None = None

    @property
    def well_formed(self) -> bool:
        """Whether HTTP itself is kept, so that an answer is owed."""
        return self.length is None and self.spoil is None

    def as_bytes(self) -> bytes:
        query = urlencode(self.query)
        target = quote(self.path, safe="/%") + (f"?{query}" if query else "")
        length = len(self.body) if self.length is None else self.length
        lines = [f"{self.method} {target} HTTP/1.1", "host: 127.0.0.1", f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        raw = "\r\n".join(lines).encode("utf-8", "replace") + b"\r\nconnection: close\r\n\r\n" + self.body
        if self.spoil is not None:
            at = self.spoil[0] % (len(raw) + 1)
            raw = raw[:at] + self.spoil[1] + raw[at + len(self.spoil[1]) :]
        return raw

    def __str__(self) -> str:
        shown = f"{self.method} {self.path}?{urlencode(self.query)}"[:300]
        return f"{shown} {dict(self.headers)} body[{len(self.body)}]={self.body[:60]!r}"


@cache
def valid() -> tuple[Attack, ...]:
    """A request of every kind that is answered with 200."""
    scaling = wire.Scaling(BUILTIN.latents.scaling_factor)
    found = [Attack("GET", path) for path in ("/vae", "/vae/builtin", "/health", "/ready", "/openapi.json")]
    for dialect in ("binary", "base64"):
        for output in wire.OUTPUTS:
            message = wire.pack_decode_request(wire.DecodeRequest(LATENTS, scaling, output), dialect)
            found.append(_post("/vae/builtin/decode", message))
        for transfer in ("png", "jpg", "uint8", "float32", "float16"):
            message = wire.pack_encode_request(wire.EncodeRequest(IMAGE, scaling), transfer, dialect)
            found.append(_post("/vae/builtin/encode", message))
    return (*found, *(replace(attack, path="/") for attack in found[5:8]))


def _post(path: str, message: wire.HttpRequest) -> Attack:
    return Attack("POST", path, message.query, tuple(message.headers.items()), message.body)


NAMES = ("shape", "dtype", "do_scaling", "scaling_factor", "shift_factor", "output_type", "image_format",
         "partial_postprocess", "height", "width", "input_tensor_type", "output_tensor_type", "other", "")  # fmt: skip
VALUES = ("1", "4", "8", "0", "-1", "[1,4,2,3]", "[1,3,16,24]", "1,3,8,8", "float32", "float16", "uint8", "bfloat16",
          "float64", "pt", "pil", "png", "jpg", "mp4", "True", "false", "None", "", "nan", "inf", "1e-6", "1e30",
          "-0.0", "0.5", "99999999", "1048576", "9" * 400, "１", "[[1]]", "[" * 5000, "{}", "torch.float16", "base64",
          "../../etc/passwd", hostile.MARKUP, hostile.UNICODE, "%00", "\r\nx-injected: 1")  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X")
PATHS = ("/vae/../../etc/passwd", "/vae/%2e%2e/%2e%2e/etc/passwd", "/vae/builtin%00/decode", "/vae/builtin/decode/",
         "//vae/builtin/decode", "/vae//decode", "/vae/..%2f..%2fbuiltin/encode", "/metrics", "/vae/" + "x" * 4000,
         f"/vae/{hostile.MARKUP}/encode", "/vae/BUILTIN/decode", "/VAE/builtin", "/docs", "/vae/nobody/decode",
         "/vae/builtin/encode", "/vae/builtin/decode", "/")  # fmt: skip
HEADERS = tuple(
    (name, value)
    for name, values in {
        "content-type": ("tensor/binary", "tensor/base64", "image/png", "application/json", "text/html",
                         "multipart/form-data; boundary=x", "x" * 3000, "\x80\xff", ""),
        "accept": ("tensor/binary", "tensor/base64", "image/png", "image/jpeg", "*/*", ",;,;q=9", "ж" * 40),
        "content-encoding": ("gzip", "deflate", "br"),
        "transfer-encoding": ("chunked", "identity", "gzip, chunked"),
        "authorization": ("Bearer x", "Basic eDp5", "Bearer", "\x00"),
        "expect": ("100-continue",),
        "x-request-id": ("abc", hostile.MARKUP, "x" * 5000, "a\tb"),
        "upgrade": ("websocket", "h2c"),
        "host": ("elsewhere.example", "a" * 300),
        "x-forwarded-for": ("169.254.169.254",),
    }.items()
    for value in values
)  # fmt: skip


@st.composite
def attacks(draw: st.DrawFn) -> Attack:
    """A valid request with up to four things wrong."""
    attack = draw(st.sampled_from(valid()))
    for change in draw(st.lists(st.sampled_from(_CHANGES), max_size=4)):
        attack = change(draw, attack)
    return attack


def _method(draw: st.DrawFn, attack: Attack) -> Attack:
    return replace(
        attack,
        method=draw(st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"))),
    )


def _path(draw: st.DrawFn, attack: Attack) -> Attack:
    letters = st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: f"/vae/{text}/decode")
    return replace(attack, path=draw(st.one_of(st.sampled_from(PATHS), letters)))


def _query(draw: st.DrawFn, attack: Attack) -> Attack:
    pairs = list(attack.query)
    value = draw(st.one_of(st.sampled_from(VALUES), st.text(st.characters(codec="utf-8"), max_size=8)))
    if pairs and draw(st.booleans()):
        at = draw(st.integers(0, len(pairs) - 1))
        pairs[at : at + 1] = draw(st.sampled_from(([], [pairs[at]] * 2, [(pairs[at][0], value)])))
    else:
        pairs.append((draw(st.sampled_from(NAMES)), value))
    return replace(attack, query=tuple(pairs))


def _header(draw: st.DrawFn, attack: Attack) -> Attack:
    name, value = draw(st.sampled_from(HEADERS))
    kept = tuple(pair for pair in attack.headers if pair[0] != name)
    return replace(attack, headers=(*kept, (name, value)))


@cache
def _payloads() -> tuple[bytes, ...]:
    return tuple(hostile.bodies().values())


def _other_body(draw: st.DrawFn, attack: Attack) -> Attack:
    return replace(attack, body=draw(st.one_of(st.sampled_from(_payloads()), st.binary(max_size=64))))


def _spoilt_body(draw: st.DrawFn, attack: Attack) -> Attack:
    at = draw(st.integers(0, len(attack.body)))
    patch = draw(st.binary(max_size=8))
    kept = attack.body[at + draw(st.integers(0, 16)) :] if draw(st.booleans()) else b""
    return replace(attack, body=attack.body[:at] + patch + kept)


def _wrong_length(draw: st.DrawFn, attack: Attack) -> Attack:
    return replace(attack, length=draw(st.sampled_from((0, 1, len(attack.body) + 1, 2**20, 2**63, -1))))


def _spoilt_bytes(draw: st.DrawFn, attack: Attack) -> Attack:
    return replace(attack, spoil=(draw(st.integers(0, 400)), draw(st.binary(min_size=1, max_size=6))))


# Twice what reaches furthest inside; what HTTP itself refuses stays outside, so it comes seldom.
_CHANGES = (_query, _query, _header, _header, _other_body, _spoilt_body, _spoilt_body, _path, _method,
            _wrong_length, _spoilt_bytes)  # fmt: skip

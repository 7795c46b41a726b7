"""The checks of decoding: every form of reply, of latents, of parameters, and of scaling."""

from __future__ import annotations

import base64
import io
import json
from functools import partial
from typing import Any

import torch
from PIL import Image

from backend import wire
from backend.conformance.check import Check, register
from backend.conformance.target import COLUMNS, ROWS, Target, good, near, plain_decode
from backend.errors import MismatchError, SkippedCheck
from backend.message import Message

CHECKS: list[Check] = []
check = partial(register, CHECKS)


@check("decode", "pt is float, NCHW, in [-1, 1]")
def _pt(target: Target) -> None:
    image = target.decoded()
    expected = [1, 3, ROWS * target.spec.downscale, COLUMNS * target.spec.downscale]
    if list(image.shape) != expected or not image.is_floating_point():
        raise MismatchError("{dtype} of shape {shape}", dtype=str(image.dtype), shape=list(image.shape))
    if not float(image.abs().max()) <= 1.3:  # which no NaN is
        raise MismatchError("values up to {largest:.2f}", largest=float(image.abs().max()))


@check("decode", "pt with partial_postprocess is uint8, NHWC")
def _partial(target: Target) -> None:
    pixels = target.tensor("decode", *plain_decode(target, partial_postprocess="True"))
    near(pixels, wire.image_to_pixels(target.decoded()), 1.0)
    if pixels.dtype != torch.uint8:
        raise MismatchError("dtype {dtype}", dtype=str(pixels.dtype))


@check("decode", "pil with a processor is float, NCHW, in [0, 1]")
def _unit(target: Target) -> None:
    image = target.tensor("decode", *plain_decode(target, output_type="pil"))
    near(image, (target.decoded() / 2 + 0.5).clamp(0, 1), 0.01)


def _picture(target: Target, kind: str, mime: str, tolerance: float) -> None:
    body, query, headers = plain_decode(target, output_type="pil", image_format=kind)
    response = good(target.post("decode", body, query, {**headers, "Accept": mime}))
    if wire.sniff(response.content) != kind:
        raise MismatchError("not a {kind}: {start!r}", kind=kind, start=response.content[:12])
    near(wire.parse_picture(response.content), target.decoded().clamp(-1, 1), tolerance)


@check("decode", "pil png")
def _png(target: Target) -> None:
    _picture(target, "png", "image/png", 0.02)


@check("decode", "pil jpg")
def _jpg(target: Target) -> None:
    _picture(target, "jpg", "image/jpeg", 1.0)


for _name, _tolerance in (("float16", 0.02), ("bfloat16", 0.3)):

    @check("decode", f"{_name} latents")
    def _half(target: Target, dtype: str = _name, tolerance: float = _tolerance) -> None:
        image = target.tensor("decode", *plain_decode(target, target.latents.to(getattr(torch, dtype))))
        near(image, target.decoded(), tolerance)


@check("decode", "uint8 latents")
def _uint8_latents(target: Target) -> None:
    latents = torch.ones(1, target.spec.channels, ROWS, COLUMNS, dtype=torch.uint8)
    near(
        target.tensor("decode", *plain_decode(target, latents)),
        target.tensor("decode", *plain_decode(target, latents.float())),
        0.02,
    )


@check("decode", "a batch")
def _batch(target: Target) -> None:
    two = torch.cat([target.latents, target.latents.flip(3)])
    image = target.tensor("decode", *plain_decode(target, two))
    near(image[:1], target.decoded(), 0.01)
    if image.shape[0] != 2:
        raise MismatchError("{count} pictures for 2", count=image.shape[0])


@check("decode", "shape as a JSON list in one key")
def _json_shape(target: Target) -> None:
    body, query, headers = plain_decode(target)
    others = [pair for pair in query if pair[0] != "shape"]
    image = target.tensor(
        "decode", body, [("shape", json.dumps(list(target.latents.shape))), *others], headers
    )
    near(image, target.decoded(), 0.01)


@check("decode", "httpx: lower-case booleans, None as empty")
def _httpx(target: Target) -> None:
    body, query, headers = plain_decode(
        target, partial_postprocess="true", height="", width="", do_scaling=""
    )
    near(target.tensor("decode", body, query, headers), wire.image_to_pixels(target.decoded()), 1.0)


@check("decode", "packed latents with height and width")
def _packed(target: Target) -> None:
    packed = wire.pack_latents(target.latents)
    size = {"height": str(ROWS * 8 + 5), "width": str(COLUMNS * 8 + 15)}
    near(target.tensor("decode", *plain_decode(target, packed, **size)), target.decoded(), 0.01)


def _scaled(
    target: Target, latents: torch.Tensor, pairs: list[tuple[str, str]], expected: torch.Tensor
) -> None:
    body, query, headers = plain_decode(target, latents)
    without = [pair for pair in query if pair[0] not in ("scaling_factor", "shift_factor")]
    near(target.tensor("decode", body, [*without, *pairs], headers), expected, 0.02)


@check("decode", "do_scaling=True scales by the VAE's own factors")
def _configured(target: Target) -> None:
    _scaled(target, target.latents, [("do_scaling", "True")], target.decoded())


@check("decode", "do_scaling=False does not scale")
def _raw(target: Target) -> None:
    _scaled(target, target.unscaled(target.latents), [("do_scaling", "False")], target.decoded())


@check("decode", "today's diffusers without scaling: nothing said means none")
def _nothing(target: Target) -> None:
    _scaled(target, target.unscaled(target.latents), [], target.decoded())


@check("decode", "first clients (input_tensor_type): nothing said means the VAE's own")
def _first(target: Target) -> None:
    _scaled(target, target.latents, [("input_tensor_type", "binary")], target.decoded())


@check("decode", "other factors")
def _others(target: Target) -> None:
    latents = target.scaled(target.unscaled(target.latents), 0.5, 0.25)
    _scaled(target, latents, [("scaling_factor", "0.5"), ("shift_factor", "0.25")], target.decoded())


def _legacy(target: Target, *, in_body: bool) -> None:
    body, query, _ = plain_decode(target)
    parameters: dict[str, Any] = {key: value for key, value in query if key != "shape"}
    parameters["shape"] = list(target.latents.shape)
    document: dict[str, Any] = {"inputs": base64.b64encode(body).decode()}
    if in_body:
        document["parameters"] = {**parameters, "partial_postprocess": False}
        query = []
    content_type = "application/json" if in_body else "tensor/base64"
    headers = {"Content-Type": content_type, "Accept": "tensor/base64"}
    response = good(target.post("decode", json.dumps(document).encode(), query, headers))
    reply = response.json()
    raw = base64.b64decode(reply["inputs"])
    sent = reply["parameters"]
    near(wire.parse_tensor(raw, tuple(sent["shape"]), sent["dtype"]), target.decoded(), 0.01)


@check("decode", "legacy base64, parameters in the body")
def _legacy_body(target: Target) -> None:
    _legacy(target, in_body=True)


@check("decode", "legacy base64, parameters in the query")
def _legacy_query(target: Target) -> None:
    _legacy(target, in_body=False)


@check("decode", "diffusers' remote_decode, every output")
def _diffusers_decode(target: Target) -> None:
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.utils import remote_utils

    if target.token:
        raise SkippedCheck("diffusers' client sends no token")
    options: dict[str, Any] = {
        "scaling_factor": target.spec.scaling_factor,
        "shift_factor": target.spec.shift_factor,
    }
    expected = wire.image_to_pixels(target.decoded())[0]
    for more in (
        {"image_format": "png"},
        {"output_type": "pt", "processor": VaeImageProcessor()},
        {"output_type": "pt", "partial_postprocess": True},
        {"output_type": "pil", "processor": VaeImageProcessor()},
    ):
        assert target.decode_url is not None
        picture: Any = remote_utils.remote_decode(target.decode_url, target.latents, **options, **more)
        picture = picture[0] if isinstance(picture, list) else picture
        got = wire.image_to_pixels(wire.parse_picture(_as_png(picture)))[0]
        near(got, expected, 2.0, Message("pixels with {options}", options=sorted(more)))


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
